//! Tests of the webhooks connector: the receiver. Signatures and kills are in the tests of the program.

mod receiving;
