//! Changes by the functions of change data capture. Source: "About change data capture" and the pages of its functions in
//! Microsoft's documentation.

pub(crate) mod check;
pub(crate) mod feed;
pub(crate) mod log;
pub(crate) mod plan;
