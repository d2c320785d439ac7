//! The catalog of the stand-in: the questions that the connector asks about the server, known by their text.

use super::state::{Fault, Output, OutputColumn, State, Table};
use super::value::{Type, Value, now};

pub(super) const TEXT: Type = Type::NVarChar(128);

pub(super) fn answer(types: &[Type], rows: Vec<Vec<Value>>) -> Output {
    let column = |ty: &Type| OutputColumn { name: String::new(), ty: *ty, nullable: true, utf8: false };
    Output { columns: types.iter().map(column).collect(), rows }
}

pub(super) fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

pub(super) fn flag(flag: bool) -> Value {
    Value::Int(i64::from(flag))
}

impl State {
    /// Answers a question about the server; `None`: it is about tables.
    pub(super) fn catalog(&self, session: u64, sql: &str) -> Option<Result<Output, Fault>> {
        if let Some(answered) = self.captured(sql) {
            return Some(answered);
        }
        if let Some(answered) = self.tracking_answer(sql) {
            return Some(Ok(answered));
        }
        Some(if sql.contains("FROM sys.databases") {
            let row = vec![
                Value::Int(session as i64),
                text("shop"),
                text("reader"),
                flag(self.snapshot),
                flag(false),
                flag(false),
            ];
            Ok(answer(&[Type::Int, TEXT, TEXT, Type::Int, Type::Int, Type::Int], vec![row]))
        } else if sql.contains("MIN_ACTIVE_ROWVERSION()") {
            let row = vec![Value::Ticks(now(), 0), Value::Ticks(now(), 0), Value::Bytes(self.least_active())];
            Ok(answer(&[Type::DateTime2(7), Type::DateTime2(7), Type::VarBinary(8)], vec![row]))
        } else if sql.contains("FROM sys.dm_tran_active_transactions") {
            self.transactions()
        } else if sql.contains("FROM sys.dm_exec_requests") {
            Ok(answer(&[Type::BigInt], vec![vec![Value::Int(0)]]))
        } else if sql.contains("FROM sys.indexes") {
            Ok(self.indexes())
        } else if sql.contains("FROM sys.columns") {
            Ok(self.columns())
        } else if sql.contains("FROM sys.objects") {
            Ok(self.objects())
        } else {
            return None;
        })
    }

    fn transactions(&self) -> Result<Output, Fault> {
        if !self.sees_all {
            return Err(Fault::error(
                300,
                "VIEW SERVER STATE permission was denied on object 'server', database 'master'.",
            ));
        }
        let age = |since: &std::time::Instant| {
            vec![Value::Int(i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX))]
        };
        Ok(answer(&[Type::BigInt], self.open.values().map(age).collect()))
    }

    fn objects(&self) -> Output {
        let row = |(path, table): (&(String, String), &Table)| {
            let (rows, bytes) = table.size();
            let writable = flag(self.writable);
            vec![
                text(&path.0),
                text(&path.1),
                Value::Int(0),
                Value::Int(rows),
                Value::Int(bytes),
                writable.clone(),
                writable,
            ]
        };
        let types = [TEXT, TEXT, Type::Int, Type::BigInt, Type::BigInt, Type::Int, Type::Int];
        answer(&types, self.tables.iter().map(row).collect())
    }

    fn columns(&self) -> Output {
        let mut rows = Vec::new();
        for (path, table) in &self.tables {
            let readable = !self.denied.contains(&format!("{}.{}", path.0, path.1));
            for column in &table.columns {
                let (name, precision, scale) = column.ty.declared();
                let collation = if column.ty.is_text() { column.collation.as_str() } else { "" };
                rows.push(vec![
                    text(&path.0),
                    text(&path.1),
                    text(&column.name),
                    text(name),
                    Value::Int(precision.into()),
                    Value::Int(scale.into()),
                    flag(column.nullable),
                    flag(false),
                    text(collation),
                    Value::Int(column.code_page()),
                    flag(readable),
                    Value::Int(if column.ty.is_unbounded() { -1 } else { 8 }),
                ]);
            }
        }
        let int = Type::Int;
        answer(&[TEXT, TEXT, TEXT, TEXT, int, int, int, int, TEXT, int, int, int], rows)
    }

    fn indexes(&self) -> Output {
        let mut rows = Vec::new();
        for (path, table) in &self.tables {
            let key = (!table.key.is_empty()).then(|| ("pk".to_owned(), true, table.key.clone()));
            for (i, (name, unique, columns)) in key.iter().chain(&table.indexes).enumerate() {
                for column in columns {
                    let nullable = table.columns.iter().any(|c| c.name == *column && c.nullable);
                    let primary = i == 0 && key.is_some();
                    rows.push(vec![
                        text(&path.0),
                        text(&path.1),
                        text(name),
                        flag(*unique),
                        flag(primary),
                        text(column),
                        flag(nullable),
                    ]);
                }
            }
        }
        answer(&[TEXT, TEXT, TEXT, Type::Int, Type::Int, TEXT, Type::Int], rows)
    }
}
