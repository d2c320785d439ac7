//! Tests of the whole: the shape of the workspace, and the built program from outside. They are in `tests/`.
