//! A folder to test against, with files that can be added.

use std::sync::{Mutex, PoisonError};

use ingest_core::{Json, async_trait};
use ingest_testkit::conformance::server::{Command, Server};
use serde_json::json;

/// The folder. It is removed when this is dropped.
pub struct SampleServer {
    folder: tempfile::TempDir,
    /// How many files were written.
    files: Mutex<i64>,
}

/// Records of a file.
const RECORDS: i64 = 40;

impl SampleServer {
    /// Makes a folder with some files.
    pub async fn start() -> Self {
        let server = Self { folder: tempfile::tempdir().expect("a folder"), files: Mutex::new(0) };
        server.write("refunds", 0, "id:int|amount:decimal\n");
        (0..3).for_each(|_| server.add());
        server
    }

    fn add(&self) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let ids = *files * RECORDS..(*files + 1) * RECORDS;
        let orders: String = ids.clone().map(|id| format!("{id}|{}.{:02}\n", id * 3, id % 100)).collect();
        let customers: String = ids.map(|id| format!("{id}|Zoë {id}\n")).collect();
        self.write("orders", *files, &format!("id:int|total:decimal\n{orders}"));
        self.write("customers", *files, &format!("id:int|name:text\n{customers}"));
        *files += 1;
    }

    /// Writes a file under another name first, so that nobody sees half of it.
    fn write(&self, stream: &str, number: i64, text: &str) {
        let folder = self.folder.path().join(stream);
        std::fs::create_dir_all(&folder).expect("a folder");
        let (part, file) = (folder.join("new.part"), folder.join(format!("{number:06}.acme")));
        std::fs::write(&part, text).and_then(|()| std::fs::rename(part, file)).expect("written");
    }

    fn rows(&self, stream: &str) -> Vec<Json> {
        let records = *self.files.lock().unwrap_or_else(PoisonError::into_inner) * RECORDS;
        let row = |id: i64| match stream {
            "orders" => json!({"id": id, "total": format!("{}.{:02}", id * 3, id % 100)}),
            _ => json!({"id": id, "name": format!("Zoë {id}")}),
        };
        if stream == "refunds" { Vec::new() } else { (0..records).map(row).collect() }
    }
}

#[async_trait]
impl Server for SampleServer {
    fn address(&self) -> String {
        self.folder.path().display().to_string()
    }

    fn can(&self) -> Vec<String> {
        ["truth", "change"].map(String::from).to_vec()
    }

    async fn tell(&self, command: Command) -> Result<Json, String> {
        match command {
            Command::Truth { stream } => Ok(json!({"rows": self.rows(&stream)})),
            Command::Change => {
                self.add();
                Ok(json!({}))
            }
            _ => Err("a folder cannot do this".into()),
        }
    }
}
