//! Codecs: what turns bytes into items and items into bytes.
