//! Tests of the runner over a model source and a Delta lake in memory.

mod lake;
mod pipeline;
