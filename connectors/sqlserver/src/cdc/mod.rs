//! Changes by the functions of change data capture, or by Change Tracking where a table has that alone. Source: "About change data
//! capture", "About change tracking", "Work with change tracking" and the pages of their functions in Microsoft's documentation.

pub(crate) mod check;
pub(crate) mod feed;
pub(crate) mod log;
pub(crate) mod plan;
pub(crate) mod take;
pub(crate) mod tracked;
pub(crate) mod tracking;
