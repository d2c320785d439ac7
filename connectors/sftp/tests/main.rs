//! Tests of the SFTP connector against OpenSSH.

mod conformance;
mod faults;
mod login;
mod reading;
mod support;
