"""Methods that part an image by its grey values alone."""
