//! Tests of the webhooks connector: the conformance suite and the receiver. Signatures and kills are in the tests of the program.

mod conformance;
mod receiving;
