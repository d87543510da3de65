"""Tools beside a run: the protocol, TensorBoard, and a figure that updates."""
