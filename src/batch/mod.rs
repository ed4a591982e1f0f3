//! The n-buffer batcher: many threads hand over small items, one consumer gets large batches.
