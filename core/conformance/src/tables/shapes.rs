//! Checks of what tables and values can look like.

use std::sync::Arc;

use arrow_array::builder::{Int64Builder, ListBuilder, MapBuilder, StringBuilder};
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int8Array,
    Int16Array, Int32Array, Int64Array, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray, UInt8Array,
    UInt16Array, UInt32Array,
};
use arrow_schema::{DataType, Field, Fields};
use ingest_core::lake::Commit;

use super::bench::{Bench, batch, committed, numbered, ok, orders, path, same};
use super::{Check, check};
use crate::{Checked, Fault, wrong};

pub(super) const CHECKS: &[Check] = &[
    check!(
        "W06",
        "names of any spelling are kept or refused by name, partition values come back as they are",
        "a column that cannot be stored is an error that names it; all else, and every value, is the format's to escape",
        names
    ),
    check!(
        "W07",
        "no rows, wide tables and long values are tables too",
        "a writer without rows may give no file; a commit without files is a commit",
        extremes
    ),
    check!(
        "W08",
        "values of every type come back as `to_storage` made them",
        "`storage_schema` says what becomes of a type, and is its own fixed point; nothing changes on the way to the file",
        types
    ),
    check!(
        "W09",
        "a partitioned table holds what one without partitions holds",
        "`partition_by` says where rows lie, not what they are; files carry the values",
        partitions
    ),
    check!(
        "W15",
        "another program reads the same rows",
        "the format is that of its specification, for every reader",
        second_reader
    ),
    check!(
        "W17",
        "a schema that grows leaves the old rows as they are",
        "`Commit::schema` is a wider schema; older rows lack the new columns",
        evolution
    ),
];

async fn names(bench: &Bench) -> Checked {
    let values = ["a/b=c", "ü %25 ?#&", " ", ".", "..", "two words", "'\"`\\", "{x}:[y]", "\u{1F980}"];
    let number: ArrayRef = Arc::new((0..9).map(Some).collect::<Int64Array>());
    let text: ArrayRef = Arc::new(values.iter().map(|value| Some(*value)).collect::<StringArray>());
    let long = "long".repeat(25);
    let odd =
        ["select", "Größe", "a.b", "two words", "a,b;c{d}(e)=f", "tab\t", "\"g\"`h`'i'", "100%", "$1:x/y\\z", &long];
    let mut columns = vec![("id", Arc::clone(&number)), ("shape", text)];
    for name in odd {
        match bench.format().storage_schema(&batch(vec![(name, Arc::clone(&number))])?.schema()) {
            Ok(_) => columns.push((name, Arc::clone(&number))),
            Err(error) if format!("{error:?}").contains(name.trim()) => {}
            Err(error) => {
                return wrong(format!("column {name:?} is refused by an error that does not name it: {error:?}"));
            }
        }
    }
    let rows = batch(columns)?;
    let mut table = bench.create("names", &rows, &[]).await?;
    bench.append(table.as_mut(), 1, &rows).await?;
    same("columns of odd names", &bench.rows("names").await?, &bench.expected([&rows])?)?;
    let mut table = bench.create("partition names", &rows, &["shape"]).await?;
    bench.append(table.as_mut(), 1, &rows).await?;
    same("partitions of odd values", &bench.rows("partition names").await?, &bench.expected([&rows])?)
}

async fn extremes(bench: &Bench) -> Checked {
    let rows = orders(0..3, "row")?;
    let mut table = bench.create("extremes", &rows, &[]).await?;
    let none = bench.upload(table.as_ref(), &[rows.slice(0, 0)]).await?;
    committed(table.commit(numbered(none, 1)).await)?;
    let none = bench.upload(table.as_ref(), &[]).await?;
    committed(table.commit(numbered(none, 2)).await)?;
    same("after two commits of no rows", &bench.rows("extremes").await?, &Vec::new())?;
    let names: Vec<String> = (0..600).map(|n| format!("column_{n}")).collect();
    let cell: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
    let wide = batch(names.iter().map(|name| (name.as_str(), Arc::clone(&cell))).collect())?;
    let mut table = bench.create("wide", &wide, &[]).await?;
    bench.append(table.as_mut(), 1, &wide).await?;
    same("a table of 600 columns", &bench.rows("wide").await?, &bench.expected([&wide])?)?;
    let text = "0123456789abcdef".repeat(1 << 17);
    let long =
        batch(vec![("text", Arc::new(StringArray::from(vec![Some(text.as_str()), None, Some("")])) as ArrayRef)])?;
    let mut table = bench.create("long", &long, &[]).await?;
    bench.append(table.as_mut(), 1, &long).await?;
    same("a text of 2 MiB", &bench.rows("long").await?, &bench.expected([&long])?)
}

/// One column of each type that connectors give; first and last values of its range, and none.
fn every_type() -> Result<RecordBatch, Fault> {
    let arrow = |error: arrow_schema::ArrowError| Fault::Wrong(error.to_string());
    let decimal = |values: Vec<Option<i128>>, precision, scale| -> Result<ArrayRef, Fault> {
        Ok(Arc::new(Decimal128Array::from(values).with_precision_and_scale(precision, scale).map_err(arrow)?))
    };
    let largest = 10_i128.pow(38) - 1;
    let mut list = ListBuilder::new(Int64Builder::new());
    list.append_value([Some(i64::MIN), None, Some(3)]);
    list.append_value([] as [Option<i64>; 0]);
    list.append_null();
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    map.keys().append_value("one");
    map.values().append_value(1);
    map.keys().append_value("none");
    map.values().append_null();
    map.append(true).map_err(arrow)?;
    map.append(true).map_err(arrow)?;
    map.append(false).map_err(arrow)?;
    let inner: ArrayRef = Arc::new(StringArray::from(vec![Some("in"), None, None]));
    let fields = Fields::from(vec![Field::new("inner", DataType::Utf8, true)]);
    let nested = StructArray::new(fields, vec![inner], Some(vec![true, true, false].into()));
    batch(vec![
        ("boolean", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])) as ArrayRef),
        ("int8", Arc::new(Int8Array::from(vec![Some(i8::MIN), Some(i8::MAX), None]))),
        ("int16", Arc::new(Int16Array::from(vec![Some(i16::MIN), Some(i16::MAX), None]))),
        ("int32", Arc::new(Int32Array::from(vec![Some(i32::MIN), Some(i32::MAX), None]))),
        ("int64", Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(i64::MAX), None]))),
        ("uint8", Arc::new(UInt8Array::from(vec![Some(0), Some(u8::MAX), None]))),
        ("uint16", Arc::new(UInt16Array::from(vec![Some(0), Some(u16::MAX), None]))),
        ("uint32", Arc::new(UInt32Array::from(vec![Some(0), Some(u32::MAX), None]))),
        ("float32", Arc::new(Float32Array::from(vec![Some(f32::MIN), Some(f32::NAN), None]))),
        ("float64", Arc::new(Float64Array::from(vec![Some(f64::MIN_POSITIVE), Some(f64::NEG_INFINITY), None]))),
        ("decimal_9", decimal(vec![Some(-999_999_999), Some(1), None], 9, 2)?),
        ("decimal_38", decimal(vec![Some(-largest), Some(largest), None], 38, 10)?),
        ("text", Arc::new(StringArray::from(vec![Some("\u{0}\n\u{10ffff}"), Some(""), None]))),
        ("binary", Arc::new(BinaryArray::from(vec![Some(&b"\x00\xff"[..]), Some(&b""[..]), None]))),
        ("date", Arc::new(Date32Array::from(vec![Some(-719_162), Some(2_932_896), None]))),
        ("naive", Arc::new(TimestampMicrosecondArray::from(vec![Some(-62_135_596_800_000_000), Some(1), None]))),
        (
            "utc",
            Arc::new(
                TimestampMicrosecondArray::from(vec![Some(253_402_300_799_999_999), Some(-1), None])
                    .with_timezone("UTC"),
            ),
        ),
        ("list", Arc::new(list.finish())),
        ("map", Arc::new(map.finish())),
        ("struct", Arc::new(nested)),
        ("nothing", Arc::new(StringArray::from(vec![None::<&str>; 3]))),
    ])
}

async fn types(bench: &Bench) -> Checked {
    let rows = every_type()?;
    let format = bench.format();
    let schema = ok("storage_schema", format.storage_schema(&rows.schema()))?;
    if ok("storage_schema", format.storage_schema(&schema))? != schema {
        return wrong("`storage_schema` of a storage schema is another one");
    }
    let mut table = bench.create("types", &rows, &[]).await?;
    if table.schema().fields().len() != rows.num_columns() {
        return wrong(format!("a table of {} columns has {}", rows.num_columns(), table.schema().fields().len()));
    }
    bench.append(table.as_mut(), 1, &rows).await?;
    same("a row of each type", &bench.rows("types").await?, &bench.expected([&rows])?)
}

async fn partitions(bench: &Bench) -> Checked {
    let rows = orders(0..60, "row")?;
    let of = |modulus: i64| -> ArrayRef {
        Arc::new((0..60).map(|n| (n % 11 != 0).then_some(n % modulus)).collect::<Int64Array>())
    };
    let days: ArrayRef = Arc::new((0..60).map(|n| Some(20_000 + n % 3)).collect::<Date32Array>());
    let mut columns: Vec<(&str, ArrayRef)> = vec![("number", of(4)), ("day", days)];
    let schema = rows.schema();
    columns.extend(schema.fields().iter().map(|field| field.name().as_str()).zip(rows.columns().iter().cloned()));
    let rows = batch(columns)?;
    let mut table = bench.create("partitions", &rows, &["day", "number"]).await?;
    bench.append(table.as_mut(), 1, &rows).await?;
    same("a partitioned table", &bench.rows("partitions").await?, &bench.expected([&rows])?)?;
    let live = ok("files", table.files().await)?;
    let carries = |partition: &[(String, Option<String>)]| match partition {
        [(day, _), (number, _)] => day == "day" && number == "number",
        _ => false,
    };
    match live.iter().find(|file| !carries(&file.partition)) {
        None if live.len() >= 12 => Ok(()),
        None => wrong(format!("{} files hold 15 partitions", live.len())),
        Some(file) => wrong(format!("a file carries the partition values {:?}", file.partition)),
    }
}

async fn second_reader(bench: &Bench) -> Checked {
    let Some(read) = &bench.subject.reader else { return Err(Fault::Needs("reader(…)")) };
    let (first, second) = (orders(0..300, "first")?, orders(300..310, "second")?);
    let mut table = bench.create("second_reader", &first, &[]).await?;
    bench.append(table.as_mut(), 1, &first).await?;
    bench.append(table.as_mut(), 2, &second).await?;
    let rows = read(&path("second_reader")).await?;
    let present = rows.into_iter().map(|row| row.into_iter().filter(|(_, value)| !value.is_null()).collect());
    let mut rows: Vec<String> =
        present.map(|row: serde_json::Map<_, _>| serde_json::Value::Object(row).to_string()).collect();
    rows.sort_unstable();
    same("what the other program reads", &rows, &bench.expected([&first, &second])?)
}

async fn evolution(bench: &Bench) -> Checked {
    let old = orders(0..20, "old")?;
    let mut table = bench.create("evolution", &old, &[]).await?;
    bench.append(table.as_mut(), 1, &old).await?;
    let before = bench.open("evolution").await?;
    let new = orders(20..30, "new")?;
    let schema = new.schema();
    let mut columns: Vec<(&str, ArrayRef)> =
        schema.fields().iter().map(|field| field.name().as_str()).zip(new.columns().iter().cloned()).collect();
    columns.push(("added", Arc::new((20..30).map(|n| Some(n.to_string())).collect::<StringArray>())));
    let wider = batch(columns)?;
    let add = bench.upload(table.as_ref(), std::slice::from_ref(&wider)).await?;
    let schema = Some(bench.stored(&wider)?.schema());
    committed(table.commit(Commit { schema, ..numbered(add, 2) }).await)?;
    same("after a column was added", &bench.rows("evolution").await?, &bench.expected([&old, &wider])?)?;
    // Rows of the older shape still fit.
    let narrow = orders(30..40, "narrow")?;
    bench.append(table.as_mut(), 3, &narrow).await?;
    same("rows without the column", &bench.rows("evolution").await?, &bench.expected([&old, &wider, &narrow])?)?;
    match before.schema().column_with_name("added") {
        None => Ok(()),
        Some(_) => wrong("an older handle sees the new column"),
    }
}
