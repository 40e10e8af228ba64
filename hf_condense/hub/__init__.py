"""The distilled dataset's folder: writing, describing, loading."""
