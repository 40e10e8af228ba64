"""Networks: loading, the small nets of this field, the one fit loop, pools and statistics taps."""
