//! What the tests of connectors, table formats and the runner stand on; third parties use it for their own connectors.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`azurite`] | an Azure Blob server |
//! | [`capture`] | loads tables, follows their changes, and keeps a log of both |
//! | [`cassette`] | records an HTTP API once and plays it back for ever |
//! | [`certificates`] | certificates for servers of tests |
//! | [`conformance`] | the suite that every connector passes |
//! | [`ftp`] | FTP servers: vsftpd and pyftpdlib |
//! | [`gcs`] | Google Cloud Storage's XML API over an S3 stand-in |
//! | [`hostile`] | servers that mean harm or are broken, and a suite that plays them against a connector |
//! | [`http`] | a scriptable HTTP/1.1 server |
//! | [`lake`] | a small run over any source, which can be killed at any mark |
//! | [`mongo`] | a scripted stand-in for a MongoDB replica set, and a FerretDB server |
//! | [`mysql`] | private MariaDB and MySQL servers |
//! | [`oracle`] | says what is lost, double, unknown or changed between a table and the truth |
//! | [`out`] | a way out that keeps everything that a slice gave |
//! | [`postgres`] | a private PostgreSQL server |
//! | [`process`] | server processes, gone when the test is over |
//! | [`programs`] | finds the programs that `.ci/install` put there |
//! | [`proxy`] | a TCP proxy that is slow, cuts, drops answers or never answers, steered from the test |
//! | [`python`] | second readers of Delta tables |
//! | [`reading`] | describes, plans and reads a source as the runner would |
//! | [`s3`] | an S3 server |
//! | [`salesforce`] | a stand-in for Salesforce |
//! | [`shopify`] | a stand-in for Shopify |
//! | [`signers`] | signatures of webhooks, by the libraries of those who send them |
//! | [`source`] | a model source, steered from the test, with faults and deliberate defects |
//! | [`sqlserver`] | a scripted stand-in for SQL Server |
//! | [`sshd`] | an OpenSSH server with SFTP |
//! | [`store`] | an object store that refuses, loses answers, or applies a write later than it said |
//! | [`stripe`] | a stand-in for Stripe |
//! | [`table`] | runs of a connector, and the table that comes of them |

pub mod azurite;
pub mod capture;
pub mod cassette;
pub mod certificates;
mod exchange;
pub mod ftp;
pub mod gcs;
mod hmac;
pub mod hostile;
pub mod http;
pub mod lake;
pub mod mongo;
pub mod mysql;
pub mod postgres;
pub mod process;
pub mod programs;
pub mod proxy;
pub mod python;
pub mod reading;
pub mod s3;
pub mod salesforce;
pub mod shopify;
pub mod signers;
pub mod source;
pub mod sqlserver;
pub mod sshd;
pub mod stand_in;
pub mod store;
pub mod stripe;
pub mod table;

pub use ingest_conformance as conformance;
pub use ingest_conformance::{oracle, out};
