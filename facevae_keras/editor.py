"""Sliders that change a face, in a notebook."""

import base64
import contextlib
import functools
import html
import io
import pathlib

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont, ImageOps

from facevae_keras.align import (
    FRAME_POINTS,
    FRAME_SIZE,
    align_face,
    read_any_photo,
    warp,
)
from facevae_keras.attributes import (
    add_attribute,
    load_attributes,
    project_out,
)
from facevae_keras.batches import read_photo
from facevae_keras.data import find_images
from facevae_keras.files import written_whole
from facevae_keras.plotting import save_picture
from facevae_keras.vae import load_vae

try:
    import ipywidgets as widgets
except ImportError:  # only the extra [notebooks] has it
    widgets = None

CROP = 0.8  # the part of an aligned photo that the course's VAEs see
SHIPPED = "celeba_dfc_vae", "celeba_residual_vae"
# Those that have a slider from the start.
FIRST_ATTRIBUTES = (
    "Smiling",
    "Mouth_Slightly_Open",
    "Eyeglasses",
    "Bangs",
    "Blond_Hair",
    "Wavy_Hair",
    "Young",
    "Male",
)
LARGEST_AMOUNT = 2.0
# Bytes. JupyterLab drops larger messages without a word.
LARGEST_UPLOAD = 10_000_000
MOST_PHOTOS = 1000  # in the drop-down
SHOWN_SIZE = 224  # pixels, of each of the four pictures
ALIGNED_SIZE = 160  # pixels, of the crop that the VAE scales down for itself

# Where the eyes belong in that crop, of its width.
EYES = 0.5 + (FRAME_POINTS[:2] + 0.5 - np.array(FRAME_SIZE) / 2) / (
    CROP * min(FRAME_SIZE)
)
CAPTIONS = {
    "photo": "photo",
    "aligned": "aligned",
    "drawn": "as the VAE draws it",
    "edited": "edited (hold to compare)",
}
FONT = ImageFont.load_default(13)

# While the mouse button is held on the edited picture, the browser shows what
# lies under it: the unedited one.
STYLE = """<style>
.facevae-stack {display: grid}
.facevae-stack > * {grid-area: 1 / 1}
.facevae-edited {cursor: pointer; -webkit-user-drag: none; user-select: none}
.facevae-edited:active {opacity: 0}
</style>"""


class FaceEditor:
    """Sliders for the attributes of a face, in Jupyter.

    Four pictures show the photo, its face aligned, the face as the VAE draws
    it, and that face edited; the last is shown unedited while the mouse button
    is held on it. A face that is not found can be placed by hand. A locked
    attribute is kept: the vectors of the others lose their share along its own
    (see `project_out`). Where there are no widgets (GitHub, nbconvert), the
    four pictures are shown alone.

    Args:
        vae: a `FaceVAE`, trained.
        vectors: DataFrame from `attribute_vectors`, of this VAE.
        latents: array or DataFrame (n, latent_dim): faces, of which *Random
            face* takes one. A DataFrame is indexed by file name, and holds the
            latent variables of the photos of these names, such as those of
            `project_photo`; those of other photos are the encoder's. None:
            random faces are samples of the prior.
        photos: a folder of photos to choose from, or the photo to begin with,
            aligned or not. None: the editor begins with the first of
            `latents`, or with the mean face.

    Attributes:
        latents: latent variables of the edited face, float32 (latent_dim,).
        image: the edited face, uint8 (image_size, image_size, 3), RGB.
        sliders: dictionary of attribute to `ipywidgets.FloatSlider`. Its value
            is the amount, -2 to 2.
        widget: all of it, which the editor displays.

    Raises:
        ValueError: vectors or latents of another number of latent variables.
        FileNotFoundError: `photos` doesn't exist or holds no photo.
        ImportError: the extra `[notebooks]` is not installed.

    Example:

    >>> latents, _, vectors = fv.load_attributes("celeba_dfc_vae")
    >>> editor = fv.FaceEditor(fv.load_vae("celeba_dfc_vae"), vectors, latents)
    >>> editor  # as the last line of a cell
    >>> editor.sliders["Smiling"].value = 1.2
    >>> fv.save_picture("smile.png", editor.image)
    """

    def __init__(self, vae, vectors, latents=None, photos=None):
        if widgets is None:
            raise ImportError(
                "FaceEditor needs ipywidgets: "
                "pip install 'facevae-keras[notebooks]'"
            )
        self._given = vae, vectors, latents
        self._use_vae(*self._given)
        self._photo = None  # an RGB image of any size, and its name
        self._name = ""
        self._aligned = None  # uint8 (ALIGNED_SIZE, ALIGNED_SIZE, 3)
        self._by_name = False  # whether latents are looked up for this photo
        self._waiting = False  # whether the edited face is not to be drawn
        self._start = np.zeros(vae.latent_dim, "float32")
        if self._known is not None:
            self._start = self._known.iloc[0].to_numpy("float32")
        self.sliders = {}
        self._locks = {}
        self._make_widgets()
        names = self._vectors.index
        first = pd.Index(FIRST_ATTRIBUTES).intersection(names, sort=False)
        for attribute in first.append(names.difference(first))[:8]:
            self._add_slider(attribute)
        self._draw_start()
        if photos is not None:
            photos = pathlib.Path(photos)
            folder = photos.parent if photos.is_file() else photos
            self._list_photos(folder)
            first = photos if photos.is_file() else self._photos.options[1][1]
            self._photos.value = str(first)

    @property
    def latents(self):
        """Latent variables of the edited face."""
        latents = self._start
        for attribute, slider in self.sliders.items():
            if slider.value:
                vector = self._vector(attribute)
                latents = add_attribute(latents, vector, [slider.value])[0]
        return latents

    @property
    def image(self):
        """The edited face."""
        return self._decode(self.latents)

    def show_photo(self, photo):
        """Finds the face in a photo, aligns it and encodes it.

        Args:
            photo: path of an image file, or an open file.

        Raises:
            OSError: no such file, or no photo in it.
        """
        self._photo, _ = read_any_photo(photo)
        self._name = pathlib.Path(getattr(photo, "name", photo)).name
        self._by_name = True
        try:
            aligned = align_face(self._photo)
        except (ValueError, ImportError) as error:
            self._say(f"{self._name}: {error} Place the face by hand.")
            self._by_hand.value = True
            self._place()
        else:
            self._say(self._name)
            self._by_hand.value = False
            self._take_face(_central_square(aligned))

    def save(self, path):
        """Writes the edited face and its latent variables.

        Args:
            path: without an ending. `PATH.png` is the face, `PATH.npy` the
                latent variables, which `numpy.load` reads.
        """
        save_picture(f"{path}.png", self.image)
        with written_whole(f"{path}.npy") as unfinished:
            np.save(unfinished, self.latents)

    def __repr__(self):
        amounts = [
            f"{attribute} {slider.value:+g}"
            for attribute, slider in self.sliders.items()
            if slider.value
        ]
        return f"FaceEditor: {', '.join(amounts) or 'unedited'}"

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {
            **self.widget._repr_mimebundle_(),
            "text/plain": repr(self),
            "image/png": base64.b64encode(self._four_pictures()).decode(),
        }

    # The face

    def _use_vae(self, vae, vectors, latents):
        for name, frame in (("vectors", vectors), ("faces", latents)):
            if frame is not None and np.shape(frame)[1] != vae.latent_dim:
                raise ValueError(
                    f"the VAE has {vae.latent_dim} latent variables, the "
                    f"{name} have {np.shape(frame)[1]}: expected those of "
                    "this VAE"
                )
        self._vae = vae
        self._vectors = vectors[np.isfinite(vectors).all(axis=1)]
        self._known = None if latents is None else pd.DataFrame(latents)

    def _decode(self, latents):
        face = self._vae.decode(latents[None])[0]
        return np.clip(np.rint(face), 0, 255).astype("uint8")

    def _vector(self, attribute):
        """An attribute's vector without its share along the locked ones."""
        vector = self._vectors.loc[attribute]
        locked = [
            name
            for name, lock in self._locks.items()
            if lock.value and name != attribute
        ]
        if locked:
            vector = project_out(vector, self._vectors.loc[locked])
        return vector

    def _take_face(self, aligned):
        self._aligned = aligned
        if (
            self._by_name
            and self._known is not None
            and self._name in self._known.index
        ):
            self._start = self._known.loc[self._name].to_numpy("float32")
        else:
            self._start = self._vae.encode(aligned[None])[0][0]
        self._draw_start()

    def _place(self, _=None):
        """Cuts the face out where the four sliders say."""
        if not self._by_hand.value or self._photo is None:
            return
        across, down, size, turn = [
            slider.value for slider in self._placing.children[1:]
        ]
        width, height = self._photo.size
        scale = ALIGNED_SIZE / (size / 100 * min(width, height))
        turned = scale * np.exp(1j * np.deg2rad(turn))
        to_crop = np.array(
            [
                (turned.real, -turned.imag, 0),
                (turned.imag, turned.real, 0),
                (0, 0, 1),
            ]
        )
        center = to_crop @ (across / 100 * width, down / 100 * height, 1)
        to_crop[:2, 2] = ALIGNED_SIZE / 2 - center[:2]
        self._by_name = False
        self._take_face(
            warp(self._photo, to_crop, (ALIGNED_SIZE, ALIGNED_SIZE))
        )

    # The widgets

    def _make_widgets(self):
        pictures = {}
        for name in ("photo", "aligned", "drawn", "unedited", "edited"):
            side = f"{SHOWN_SIZE}px"
            pictures[name] = widgets.Image(
                format="jpeg",
                layout=widgets.Layout(width=side, height=side, min_width=side),
            )
        self._pictures = pictures
        pictures["edited"].add_class("facevae-edited")
        stack = widgets.Box([pictures["unedited"], pictures["edited"]])
        stack.add_class("facevae-stack")
        row = [
            widgets.VBox(
                [
                    stack if name == "edited" else pictures[name],
                    widgets.Label(caption),
                ]
            )
            for name, caption in CAPTIONS.items()
        ]
        self._message = widgets.HTML()
        self._by_hand = widgets.ToggleButton(
            description="Place by hand", icon="hand-paper-o"
        )
        self._placing = widgets.VBox(
            [
                widgets.HTML("Move until the rings lie around the eyes."),
                *(
                    widgets.FloatSlider(
                        value, min=least, max=most, step=0.5, description=name
                    )
                    for name, value, least, most in (
                        ("across %", 50, 0, 100),
                        ("down %", 45, 0, 100),
                        ("size %", 70, 5, 150),
                        ("turn °", 0, -180, 180),
                    )
                ),
            ]
        )
        self._by_hand.observe(self._show_placing, "value")
        for slider in self._placing.children[1:]:
            slider.observe(self._place, "value")
        self._show_placing()

        self._rows = widgets.Box(
            layout=widgets.Layout(flex_flow="row wrap", max_width="920px")
        )
        self._more = widgets.Dropdown(description="Add a slider")
        self._more.observe(self._on_more, "value")

        self._folder = widgets.Text(
            description="Folder", continuous_update=False
        )
        self._folder.observe(self._on_folder, "value")
        self._photos = widgets.Dropdown(
            description="Photo", options=[("choose", None)]
        )
        self._photos.observe(self._on_photo, "value")
        upload = widgets.FileUpload(
            accept="image/*",
            description=f"Upload (up to {LARGEST_UPLOAD // 1_000_000} MB)",
            layout=widgets.Layout(width="auto"),
        )
        upload.observe(self._on_upload, "value")
        self._upload = upload
        given = f"this one ({self._vae.image_size} pixels)"
        vaes = widgets.Dropdown(
            description="VAE",
            options=[
                (given, None),
                *((f"{name}, which ships", name) for name in SHIPPED),
            ],
        )
        vaes.observe(self._on_vae, "value")
        self._vaes = vaes
        random = widgets.Button(description="Random face", icon="random")
        random.on_click(self._on_random)
        reset = widgets.Button(description="Reset", icon="undo")
        reset.on_click(self._on_reset)
        self._file = widgets.Text("face", description="Save as")
        save = widgets.Button(description="Save", icon="save")
        save.on_click(self._on_save)
        self._buttons = {"random": random, "reset": reset, "save": save}
        wrap = widgets.Layout(flex_flow="row wrap")
        self.widget = widgets.VBox(
            [
                widgets.HTML(STYLE),
                widgets.HBox(row, layout=wrap),
                self._message,
                self._placing,
                self._rows,
                widgets.HBox([self._more, random, reset], layout=wrap),
                widgets.HBox(
                    [self._folder, self._photos, upload, self._by_hand],
                    layout=wrap,
                ),
                widgets.HBox([vaes, self._file, save], layout=wrap),
            ]
        )

    def _add_slider(self, attribute):
        slider = widgets.FloatSlider(
            min=-LARGEST_AMOUNT,
            max=LARGEST_AMOUNT,
            step=0.05,
            description=attribute.replace("_", " "),
            style={"description_width": "140px"},
            layout=widgets.Layout(width="390px"),
        )
        lock = widgets.ToggleButton(
            icon="unlock",
            tooltip="keep this while others change",
            layout=widgets.Layout(width="40px"),
        )

        def on_lock(_):
            lock.icon = "lock" if lock.value else "unlock"
            slider.disabled = lock.value
            self._draw()

        slider.observe(self._draw, "value")
        lock.observe(on_lock, "value")
        self.sliders[attribute] = slider
        self._locks[attribute] = lock
        self._rows.children += (widgets.HBox([slider, lock]),)
        self._list_more()

    def _list_more(self):
        others = [
            (name.replace("_", " "), name)
            for name in sorted(self._vectors.index)
            if name not in self.sliders
        ]
        self._more.options = [("choose", None), *others]
        self._more.index = 0

    # What happens when one is used

    def _on_more(self, change):
        if change.new is not None:
            self._add_slider(change.new)

    def _on_reset(self, _):
        with self._drawn_once():
            for lock in self._locks.values():
                lock.value = False
            for slider in self.sliders.values():
                slider.value = 0.0

    def _on_random(self, _):
        if self._known is None:
            self._start = np.random.standard_normal(self._vae.latent_dim)
        else:
            self._start = self._known.iloc[np.random.randint(len(self._known))]
        self._start = np.asarray(self._start, "float32")
        self._photo = self._aligned = None
        self._photos.value = None
        self._by_hand.value = False
        self._say("")
        self._draw_start()

    def _on_folder(self, change):
        with self._errors_shown():
            self._list_photos(change.new)

    def _list_photos(self, folder):
        paths = find_images(folder)["path"]
        self._folder.value = str(folder)
        shown = paths[:MOST_PHOTOS]
        self._photos.options = [
            ("choose", None),
            *zip(shown.index, shown, strict=True),
        ]
        if len(paths) > len(shown):
            self._say(f"the first {len(shown)} of {len(paths)} photos")

    def _on_photo(self, change):
        if change.new is not None:
            with self._errors_shown():
                self.show_photo(change.new)

    def _on_upload(self, change):
        if not change.new:
            return
        (upload,) = change.new
        photo = io.BytesIO(upload["content"])
        photo.name = upload["name"]
        self._upload.value = ()  # so that the same file can be sent again
        with self._errors_shown():
            size = len(photo.getbuffer())
            if not size:
                raise ValueError(
                    f"{photo.name}: expected a photo, found 0 bytes"
                )
            if size > LARGEST_UPLOAD:
                raise ValueError(
                    f"{photo.name}: expected at most {LARGEST_UPLOAD:,} bytes, "
                    f"found {size:,}; give its folder instead"
                )
            self.show_photo(photo)

    def _on_vae(self, change):
        old = self._decode(self._start)
        face = old if self._aligned is None else self._aligned
        self._use_vae(*(_load(change.new) if change.new else self._given))
        for attribute in set(self.sliders) - set(self._vectors.index):
            del self.sliders[attribute], self._locks[attribute]
        self._rows.children = [
            row
            for row in self._rows.children
            if row.children[0] in self.sliders.values()
        ]
        self._list_more()
        self._start = self._vae.encode(face[None])[0][0]
        self._draw_start()

    def _on_save(self, _):
        with self._errors_shown():
            self.save(self._file.value)
            self._say(f"written: {self._file.value}.png and .npy")

    def _show_placing(self, _=None):
        if self._by_hand.value and self._photo is None:
            self._say("Choose or upload a photo first.")
        self._placing.layout.display = "" if self._by_hand.value else "none"
        self._place()

    # What is shown

    def _draw_start(self):
        """Draws all pictures, of a new face."""
        drawn = self._decode(self._start)
        shown = {
            "photo": self._photo,
            "aligned": self._with_rings(),
            "drawn": drawn,
            "unedited": drawn,
        }
        for name, picture in shown.items():
            self._pictures[name].value = _jpeg(picture)
        self._draw()

    def _draw(self, _=None):
        """Draws the edited face: with each step of a slider."""
        if not self._waiting:
            self._pictures["edited"].value = _jpeg(self.image)

    def _with_rings(self):
        """The aligned face; with rings for the eyes while it is placed."""
        if self._aligned is None or not self._by_hand.value:
            return self._aligned
        picture = Image.fromarray(self._aligned)
        for center in EYES * ALIGNED_SIZE:
            box = [*(center - 12), *(center + 12)]
            ImageDraw.Draw(picture).ellipse(box, outline="yellow", width=2)
        return picture

    def _four_pictures(self):
        """The pictures side by side, with captions, as a PNG file."""
        side = SHOWN_SIZE
        sheet = Image.new("RGB", (4 * side, side + 20), "white")
        pen = ImageDraw.Draw(sheet)
        for place, (name, caption) in enumerate(CAPTIONS.items()):
            picture = Image.open(io.BytesIO(self._pictures[name].value))
            sheet.paste(picture, (place * side, 0))
            pen.text((place * side + 4, side + 3), caption, "black", FONT)
        file = io.BytesIO()
        sheet.save(file, "PNG")
        return file.getvalue()

    def _say(self, message):
        self._message.value = html.escape(message)

    @contextlib.contextmanager
    def _errors_shown(self):
        """Shows errors of input beside the pictures."""
        self._say("")
        try:
            yield
        except (OSError, ValueError) as error:
            self._say(str(error))

    @contextlib.contextmanager
    def _drawn_once(self):
        """Many sliders may move; one picture is drawn."""
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False
        self._draw()


@functools.cache
def _load(name):
    """VAE, vectors and known faces of what ships."""
    latents, _, vectors = load_attributes(name)
    return load_vae(name), vectors, latents


def _central_square(aligned):
    """The part of an aligned photo that the VAE sees."""
    file = io.BytesIO()
    Image.fromarray(aligned).save(file, "BMP")
    return read_photo(file, ALIGNED_SIZE, CROP)


def _jpeg(picture):
    """A picture as a JPEG file of SHOWN_SIZE; gray if there is none."""
    if picture is None:
        picture = Image.new("RGB", (1, 1), "lightgray")
    elif isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    side = SHOWN_SIZE, SHOWN_SIZE
    picture = ImageOps.pad(picture, side, Image.Resampling.BICUBIC, "lightgray")
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()
