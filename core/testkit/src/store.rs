//! An object store that fails.
