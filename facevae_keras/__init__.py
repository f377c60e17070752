"""facevae_keras: a face VAE with a FaceNet perceptual loss, in Keras 3."""

from facevae_keras.align import align_face, align_folder, find_faces
from facevae_keras.architectures import ARCHITECTURES
from facevae_keras.attributes import (
    AttributeSums,
    add_attribute,
    attribute_vectors,
    balanced_vector,
    classifier_direction,
    encode_images,
    load_attributes,
    project_out,
    project_photo,
    save_attributes,
    sum_attributes,
)
from facevae_keras.backends import fastest_precision, join_processes
from facevae_keras.batches import (
    image_dataset,
    index_batches,
    load_photos,
    photo_batches,
    read_photo,
    training_batches,
)
from facevae_keras.callbacks import (
    ReconstructionPictures,
    StopOnNaN,
    TrainingRun,
    check_answer,
    check_parameters,
    warm_up_cosine,
)
from facevae_keras.critic import PatchCriticVAE
from facevae_keras.data import find_images, read_attributes, split_images
from facevae_keras.editor import FaceEditor
from facevae_keras.edits import (
    attribute_classifier,
    dose_curve,
    edit_figures,
    train_probe,
)
from facevae_keras.facenet import (
    ENDPOINTS,
    WIKI_LAYERS,
    feature_extractor,
    load_facenet,
)
from facevae_keras.layers import scale_images
from facevae_keras.losses import PerceptualLoss, PixelLoss, kl_divergence
from facevae_keras.metrics import (
    active_dimensions,
    identity_similarity,
    independent_identity,
    kernel_distance,
    perceptual_distances,
    radial_power,
    reconstruction_figures,
    weave,
)
from facevae_keras.plotting import (
    face_grid,
    save_animation,
    save_picture,
    show_faces,
    split_grid,
)
from facevae_keras.synthetic import data_folder, write_synthetic_dataset
from facevae_keras.vae import FaceVAE, FastEncoder, load_vae

__version__ = "0.2.0"
