//! What the tests of connectors, table formats and the runner stand on; third parties use it for their own connectors.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`certificates`] | certificates for servers of tests |
//! | [`http`] | a scriptable HTTP/1.1 server |
//! | [`proxy`] | a TCP proxy that is slow, cuts, drops answers or never answers, steered from the test |
//! | [`store`] | an object store that refuses, loses answers, or applies a write later than it said |

pub mod certificates;
pub mod http;
pub mod proxy;
pub mod store;
