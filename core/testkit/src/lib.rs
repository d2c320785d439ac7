//! What the tests of connectors and of the runner stand on; third parties use it for their own connectors too.

pub mod certificates;
pub mod http;
