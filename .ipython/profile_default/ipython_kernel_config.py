# TensorFlow's start-up chatter goes to the terminal instead of the notebooks.
c.IPKernelApp.capture_fd_output = False  # noqa: F821
