//! The suite that every table format passes, over a store in memory that gives way at every await, and in a local folder; and
//! formats with a defect, each caught by the check that is about it.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use ingest_core::Result;
use ingest_core::lake::{
    Commit, CommitError, DataFile, Definition, Maintained, Maintenance, Merge, Merged, Removal, Table, TableFormat,
    Writers,
};
use ingest_testkit::conformance::tables::{self, Subject};
use ingest_testkit::python::{self, Reader};
use ingest_testkit::store::{Fault, FaultStore, Odds, Operation};

use crate::support::*;

/// A store whose every operation gives way several times, and fails never.
fn slow_store() -> FaultStore {
    let store = FaultStore::in_memory();
    let none = Odds { refuse: 0.0, lose: 0.0, late: 0.0, repeat: 0.0, land: 0.0, ..Odds::default() };
    store.random(1, none);
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_over_a_store_conform() {
    let store = slow_store();
    let (lake, broken, healed) = (store.clone(), store.clone(), store);
    let begin = move || {
        for operation in
            [Operation::Put, Operation::StartUpload, Operation::Part, Operation::CompleteUpload, Operation::Copy]
        {
            broken.always(operation, "*", Fault::Refuse);
        }
        async {}
    };
    let end = move || {
        healed.heal();
        async {}
    };
    let subject = Subject::new(move || Arc::new(format_over(Arc::new(lake.clone()))))
        .outage(begin, end)
        .counterpart("a store in memory")
        .skip("W15", "no other program sees this memory; shown with the local folder");
    tables::run(subject).await.assert_passed();
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_in_a_local_folder_conform() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let (lake, read) = (folder.clone(), folder.clone());
    let reader = move |table: &str| {
        let path = read.path().join(table);
        async move {
            let rows = python::rows(Reader::DeltaRs, path.to_str().unwrap(), &[]).await;
            rows.ok_or_else(|| "Python is to be skipped here, and the check needs it".to_owned())
        }
    };
    let subject = Subject::new(move || Arc::new(local(&lake)))
        .reader(reader)
        .counterpart("a local folder")
        .skip("W14", "a folder cannot be told to refuse; shown with the store in memory");
    tables::run(subject).await.assert_passed();
}

/// What a format may get wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Defect {
    None,
    /// The number in one commit, the rows in the next.
    NumberBeforeRows,
    /// A refused commit is made on the newest version instead.
    CommitsOnTheNewest,
    /// The old rows go in a commit of their own.
    RemovesBeforeItAdds,
    /// Of a merge's rows the last to come holds.
    MergesWithoutOrder,
    /// Deleted rows stay.
    OverlooksDeletes,
    /// A commit forgets its last file.
    LosesAFile,
    /// A handle shows what others have committed since.
    ReadsTheNewest,
    /// What staged files are is not passed on.
    VacuumsStagedFiles,
    /// The wider schema is not part of the commit.
    ForgetsTheSchema,
}

struct Defective(Arc<dyn TableFormat>, Defect);

struct DefectiveTable(Box<dyn Table>, Defect);

#[async_trait]
impl TableFormat for Defective {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    async fn open(&self, folder: &str) -> Result<Option<Box<dyn Table>>> {
        let table = self.0.open(folder).await?;
        Ok(table.map(|table| Box::new(DefectiveTable(table, self.1)) as Box<dyn Table>))
    }
    async fn create(&self, folder: &str, definition: &Definition) -> Result<Box<dyn Table>> {
        Ok(Box::new(DefectiveTable(self.0.create(folder, definition).await?, self.1)))
    }
    fn storage_schema(&self, schema: &SchemaRef) -> Result<SchemaRef> {
        self.0.storage_schema(schema)
    }
    fn to_storage(&self, batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
        self.0.to_storage(batch, schema)
    }
}

#[async_trait]
impl Table for DefectiveTable {
    fn id(&self) -> &str {
        self.0.id()
    }
    fn version(&self) -> u64 {
        self.0.version()
    }
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }
    async fn number(&self, app: &str) -> Result<Option<i64>> {
        match self.1 {
            Defect::ReadsTheNewest => self.0.reopen().await?.number(app).await,
            _ => self.0.number(app).await,
        }
    }
    async fn reopen(&self) -> Result<Box<dyn Table>> {
        Ok(Box::new(DefectiveTable(self.0.reopen().await?, self.1)))
    }
    fn writers(&self) -> Arc<dyn Writers> {
        self.0.writers()
    }
    async fn commit(&mut self, mut commit: Commit) -> Result<u64, CommitError> {
        match self.1 {
            Defect::NumberBeforeRows => {
                let transactions = std::mem::take(&mut commit.transactions);
                self.0.commit(Commit { transactions, ..Commit::default() }).await?;
            }
            Defect::CommitsOnTheNewest => {
                return match self.0.commit(commit.clone()).await {
                    Err(CommitError::Conflict(_)) => {
                        self.0 = self.0.reopen().await.map_err(CommitError::Failed)?;
                        self.0.commit(commit).await
                    }
                    done => done,
                };
            }
            Defect::RemovesBeforeItAdds => {
                let remove = std::mem::take(&mut commit.remove);
                self.0.commit(Commit { remove, ..Commit::default() }).await?;
            }
            Defect::MergesWithoutOrder => commit.merge = commit.merge.map(|merge| Merge { order: None, ..merge }),
            Defect::OverlooksDeletes => commit.remove = Removal::Nothing,
            Defect::LosesAFile => drop(commit.add.pop()),
            Defect::ForgetsTheSchema => commit.schema = None,
            Defect::None | Defect::ReadsTheNewest | Defect::VacuumsStagedFiles => {}
        }
        self.0.commit(commit).await
    }
    async fn files(&self) -> Result<Vec<DataFile>> {
        self.0.files().await
    }
    async fn files_at(&self, app: &str, number: i64) -> Result<Option<Vec<DataFile>>> {
        self.0.files_at(app, number).await
    }
    fn merged(&self) -> Option<Merged> {
        self.0.merged()
    }
    async fn discard(&self, files: &[DataFile]) -> Result<()> {
        self.0.discard(files).await
    }
    async fn read(&self, limit: usize) -> Result<Vec<RecordBatch>> {
        self.0.read(limit).await
    }
    async fn maintain(&mut self, options: &Maintenance) -> Result<Maintained> {
        let staged = match self.1 {
            Defect::VacuumsStagedFiles => Arc::default(),
            _ => Arc::clone(&options.staged),
        };
        self.0.maintain(&Maintenance { staged, ..options.clone() }).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_format_with_a_defect_fails_the_check_that_is_about_it() {
    let caught = [
        (Defect::None, None),
        (Defect::NumberBeforeRows, Some("W13")),
        (Defect::CommitsOnTheNewest, Some("W19")),
        (Defect::RemovesBeforeItAdds, Some("W13")),
        (Defect::MergesWithoutOrder, Some("W02")),
        (Defect::OverlooksDeletes, Some("W16")),
        (Defect::LosesAFile, Some("W01")),
        (Defect::ReadsTheNewest, Some("W11")),
        (Defect::VacuumsStagedFiles, Some("W23")),
        (Defect::ForgetsTheSchema, Some("W17")),
    ];
    let watched = ["W01", "W02", "W10", "W11", "W13", "W16", "W17", "W19", "W23"];
    for (defect, check) in caught {
        let store = slow_store();
        let open = move || -> Arc<dyn TableFormat> {
            Arc::new(Defective(Arc::new(format_over(Arc::new(store.clone()))), defect))
        };
        let report = tables::run(Subject::new(open).only(&watched)).await;
        let failed = report.failed();
        match check {
            Some(check) => assert!(failed.contains(&check), "{defect:?} is caught by {failed:?}, not by {check}"),
            None => report.assert_passed(),
        }
    }
}

#[test]
fn every_check_says_what_the_contract_says() {
    let mut ids: Vec<_> = tables::checks().map(|(id, ..)| id).collect();
    assert!(tables::checks().all(|(_, title, contract)| !title.is_empty() && !contract.is_empty()));
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), tables::checks().count(), "each check has a name of its own");
}
