"""Networks: loading, the small networks of this field, the training loop, pools and statistics taps."""
