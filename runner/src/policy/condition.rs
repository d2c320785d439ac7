//! Checks in SQL, where they are built in (feature `sql`).

#[cfg(feature = "sql")]
pub use ingest_sql_checks::{Bound, Condition};

#[cfg(not(feature = "sql"))]
pub use absent::{Bound, Condition};

/// What stands in for conditions in a program without them: none can be read.
#[cfg(not(feature = "sql"))]
mod absent {
    use arrow_array::ArrayRef;
    use arrow_buffer::BooleanBuffer;
    use arrow_schema::DataType;
    use ingest_core::Result;

    /// Why there are none.
    #[derive(Debug, Clone)]
    pub struct Fault {
        /// What is wrong.
        pub what: String,
        /// What to do.
        pub hint: String,
    }

    /// There is none.
    #[derive(Debug, Clone)]
    pub enum Condition {}

    /// There is none.
    #[derive(Debug, Clone)]
    pub enum Bound {}

    impl Condition {
        /// Refuses every condition.
        ///
        /// # Errors
        /// Always.
        pub fn read(_: &str) -> std::result::Result<Self, Fault> {
            let hint = "build it with `cargo build -p ingest-runner --features sql`, or write the check otherwise";
            Err(Fault { what: "this program was built without checks in SQL".to_owned(), hint: hint.to_owned() })
        }

        /// Those of no condition.
        pub fn columns(&self) -> &[String] {
            match *self {}
        }

        /// Binds no condition.
        ///
        /// # Errors
        /// Never.
        pub fn bind(&self, _: &[DataType]) -> std::result::Result<Bound, Fault> {
            match *self {}
        }
    }

    impl Bound {
        /// Asks no condition.
        ///
        /// # Errors
        /// Never.
        pub fn failing(&self, _: &[ArrayRef], _: usize) -> Result<BooleanBuffer> {
            match *self {}
        }
    }
}
