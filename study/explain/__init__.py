"""Look inside: where a network looks (Grad-CAM++), and how its features lie.

Only training and validation images are looked at: the test split is read by confirm and evaluate alone.
"""
