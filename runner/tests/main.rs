//! Tests of the runner over a model source and a Delta lake in memory.

mod chaos;
mod feeds;
mod invariants;
mod lake;
mod merge;
mod parts;
mod pipeline;
mod plugin;
mod policy;
mod serve;
