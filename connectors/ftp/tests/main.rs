//! Tests of the FTP connector against vsftpd and pyftpdlib.

mod conformance;
mod faults;
mod login;
mod reading;
mod support;
