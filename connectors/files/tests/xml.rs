//! XML documents: what becomes a column, what is refused, what is damaged.

use ingest_core::{Json, Selection};
use serde_json::json;

use crate::formats::gzip;
use crate::support::{Folder, Table, load, open, run, stream, types};

async fn read(content: &[u8], mut options: Json) -> (Vec<(String, String)>, Table) {
    let folder = Folder::new();
    folder.write("t.xml", content);
    options["path"] = json!("*.xml");
    let source = folder.source(json!({"t": options})).await;
    let types = types(&stream(source.as_ref(), "t").await);
    (types, load(source.as_ref(), "t").await)
}

/// Why a document is left out.
async fn skipped(content: &[u8], options: Json) -> String {
    let (_, table) = read(content, options).await;
    assert!(table.rows.is_empty(), "{:?}", table.rows);
    assert_eq!(table.skipped.len(), 1, "{:?}", table.skipped);
    table.skipped[0].clone()
}

fn cells(table: &Table, column: &str) -> Vec<Json> {
    let mut cells: Vec<_> = table.rows.iter().map(|row| (row["id"].to_string(), row[column].clone())).collect();
    cells.sort_by(|a, b| a.0.cmp(&b.0));
    cells.into_iter().map(|(_, cell)| cell).collect()
}

const ORDERS: &str = r##"<?xml version="1.0"?>
<!-- made by hand -->
<x:orders xmlns:x="urn:orders" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <x:order no="A-1" xsi:type="x:Sale">
    <id>1</id><code>007</code><paid>true</paid><day>2025-01-31</day><at>2025-01-31T10:00:00Z</at><total>1.50</total>
    <name>M&#252;ller &amp; S&#xf6;hne</name>
    <line sku="a"><qty>2</qty></line>
    <line sku="b"><qty>9007199254740993</qty></line>
    <note><![CDATA[a <b> & c]]></note>
  </x:order>
  <x:order no="A-2">
    <id>2</id><code>12</code><paid/><day>2025-02-01</day><at>2025-02-01T10:00:00+02:00</at><total>2.25</total>
    <name xsi:nil="true"/>
    <line sku="c"><qty>1</qty></line>
    <note>free <b>text</b> around</note>
  </x:order>
</x:orders>
"##;

#[tokio::test]
async fn elements_attributes_and_nested_ones_become_columns_with_types() {
    let (types, table) = read(ORDERS.as_bytes(), json!({"records": "orders/order", "lists": ["line"]})).await;
    let of = |name: &str| types.iter().find(|(n, _)| n == name).map(|(_, t)| t.as_str()).expect(name).to_owned();
    let names: Vec<_> = types.iter().map(|(name, _)| name.as_str()).take(4).collect();
    assert_eq!(names, ["@no", "id", "code", "paid"], "in the order of the document");
    assert_eq!(
        (of("id"), of("code"), of("paid"), of("day")),
        ("Int64".into(), "Utf8".into(), "Boolean".into(), "Date32".into())
    );
    assert_eq!((of("total"), of("line")), ("Decimal128(38, 2)".into(), "Utf8".into()));
    assert!(of("at").starts_with("Timestamp"), "{}", of("at"));
    assert_eq!(cells(&table, "@no"), ["A-1", "A-2"]);
    assert_eq!(cells(&table, "code"), ["007", "12"]);
    assert_eq!(cells(&table, "name"), [json!("M\u{fc}ller & S\u{f6}hne"), Json::Null]);
    assert_eq!(
        cells(&table, "line"),
        [r#"[{"@sku":"a","qty":"2"},{"@sku":"b","qty":"9007199254740993"}]"#, r#"[{"@sku":"c","qty":"1"}]"#]
    );
    assert_eq!(cells(&table, "note"), ["a <b> & c", r##"{"#text":["free","around"],"b":"text"}"##]);
    assert!(table.rows.iter().all(|row| row["_ingest_rescued"].is_null()), "{:?}", table.rows);
}

#[tokio::test]
async fn records_are_found_by_their_path_and_without_one_inside_the_root() {
    let nested = b"<r><head><order><id>9</id></order></head><list><order><id>1</id></order></list><list><order><id>2</id></order></list></r>";
    assert_eq!(read(nested, json!({"records": "/r/list/order"})).await.1.column("id"), ["1", "2"]);
    let flat = b"<r><a><id>1</id></a><a><id>2</id></a></r>";
    assert_eq!(read(flat, json!({})).await.1.column("id"), ["1", "2"]);
    assert_eq!(read(b"<a><id>1</id></a>", json!({"records": "a"})).await.1.column("id"), ["1"]);
    assert!(read(b"<r></r>", json!({"types": {"id": "int64"}})).await.1.rows.is_empty(), "an empty document is whole");
    for (content, records, why) in [
        (&b"<r><head/><a><id>1</id></a></r>"[..], json!({}), "elements of several names; say in `records`"),
        (b"<r><a/></r>", json!({"records": "orders/list/order"}), "there is no element \"orders\""),
        (b"<r><a/></r>", json!({"records": "order"}), "its root element is not \"order\""),
    ] {
        let text = skipped(content, records).await;
        assert!(text.contains(why), "{text}");
    }
}

#[tokio::test]
async fn documents_of_every_encoding_are_read_as_they_declare() {
    let text = |encoding: &str| {
        format!("<?xml version='1.0' encoding='{encoding}'?><r><a><id>1</id><n>\u{e4}\u{df}</n></a></r>")
    };
    let wide = |little: bool, bom: bool, encoding: &str| -> Vec<u8> {
        let units = bom.then_some(0xfeff).into_iter().chain(text(encoding).encode_utf16().collect::<Vec<_>>());
        units.flat_map(|unit: u16| if little { unit.to_le_bytes() } else { unit.to_be_bytes() }).collect()
    };
    let declared = text("ISO-8859-1");
    let (latin, _, _) = encoding_rs::WINDOWS_1252.encode(&declared);
    let documents = [
        text("UTF-8").into_bytes(),
        ["\u{feff}", &text("utf-8")].concat().into_bytes(),
        latin.into_owned(),
        text("UTF-16").into_bytes(),
        wide(true, true, "UTF-16"),
        wide(false, true, "UTF-16"),
        wide(true, false, "UTF-16LE"),
        wide(false, false, "UTF-16BE"),
    ];
    for (nth, document) in documents.iter().enumerate() {
        let (_, table) = read(document, json!({})).await;
        assert_eq!(table.column("n"), ["\u{e4}\u{df}"], "document {nth}: {:?} {:?}", table.skipped, table.bad);
    }
    let text = skipped(text("KOI-99").as_bytes(), json!({})).await;
    assert!(text.contains("declares an encoding that is not known"), "{text}");
}

#[tokio::test]
async fn entities_are_never_expanded_or_fetched() {
    let laughs = b"<?xml version=\"1.0\"?><!DOCTYPE r [<!ENTITY a \"ha\"><!ENTITY b \"&a;&a;&a;&a;\">]><r><x><id>&b;</id></x></r>";
    let file = b"<!DOCTYPE r [\n<!ENTITY f SYSTEM \"file:///etc/hostname\">\n]><r><x><id>&f;</id></x></r>";
    for document in [&laughs[..], file] {
        let text = skipped(document, json!({})).await;
        assert!(text.contains("declares entities of its own"), "{text}");
    }
    // A document type without entities says nothing that matters.
    let (_, table) = read(b"<!DOCTYPE r SYSTEM \"r.dtd\"><r><x><id>1</id></x></r>", json!({})).await;
    assert_eq!(table.column("id"), ["1"]);
}

#[tokio::test]
async fn bad_records_are_quarantined_with_their_line_and_the_others_are_read() {
    let document = "<r>\n<x><id>1</id></x>\n<x><id>2</id><n>AT&T</n></x>\n<x><id>3</id><n>&nbsp;</n></x>\n<x a='1' a='2'><id>4</id></x>\n\
                    <x><id>5</id></x>\n<x><id>six</id></x></r>";
    let (_, table) = read(document.as_bytes(), json!({"types": {"id": "int64"}})).await;
    assert_eq!(table.column("id"), ["1", "5", "null"]);
    assert_eq!(cells(&table, "_ingest_rescued").last(), Some(&json!("{\"id\":\"six\"}")));
    let reasons: Vec<_> = table.bad.iter().map(|bad| bad.reason.as_str()).collect();
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    assert!(reasons[0].starts_with("t.xml record 2 (line 3): a `&` that begins no entity"), "{reasons:?}");
    assert!(reasons[1].starts_with("t.xml record 3 (line 4): an entity that XML does not define"), "{reasons:?}");
    assert!(reasons[2].starts_with("t.xml record 4 (line 5): a broken attribute"), "{reasons:?}");
    assert!(table.bad[0].record.contains("<id>2</id>"), "{:?}", table.bad[0]);
    let deep = format!("<r><x>{}{}</x><x><id>1</id></x></r>", "<d>".repeat(200), "</d>".repeat(200));
    let (_, table) = read(deep.as_bytes(), json!({})).await;
    assert_eq!((table.column("id"), table.bad.len()), (vec!["1".to_owned()], 1));
    assert!(table.bad[0].reason.contains("more than 100 levels"), "{:?}", table.bad);
}

#[tokio::test]
async fn a_record_beyond_the_limit_is_quarantined_without_being_held_and_a_text_beyond_it_damages_the_document() {
    let folder = Folder::new();
    let many = "<v>12345678</v>".repeat(400);
    folder.write("in/a.xml", format!("<r><x><id>1</id></x><x><id>2</id>{many}</x><x><id>3</id></x></r>"));
    folder.write("in/b.xml", format!("<r><x><id>4</id></x><x><n>{}</n></x></r>", "y".repeat(1 << 20)));
    let mut config = folder.config(json!({"t": {"path": "in/*.xml"}}));
    config["max_record"] = json!("4KiB");
    let table = load(open(config).await.expect("open").as_ref(), "t").await;
    assert_eq!(table.column("id"), ["1", "3"]);
    assert_eq!(table.bad.len(), 1, "{:?}", table.bad);
    assert!(table.bad[0].reason.contains("in/a.xml record 2 (line 1): LimitExceeded"), "{:?}", table.bad);
    assert!(table.skipped[0].contains("in/b.xml") && table.skipped[0].contains("`max_record`"), "{:?}", table.skipped);
}

#[tokio::test]
async fn documents_that_are_cut_or_not_well_formed_are_left_out_with_their_line_and_read_once_repaired() {
    let document = format!("<r>\n{}</r>\n", "<x><id>1</id></x>\n".repeat(50));
    let cut = &document.as_bytes()[..document.len() / 2];
    for (content, why) in [
        (cut, "line 2"),
        (b"<r><x><id>1</id></y></r>", "an end tag that does not belong"),
        (b"<r><x><id>1</id></x></r><r></r>", "a second root element"),
        (b"<r><x><id>1</id></x></r> and more", "text outside of a root element"),
        (b"{\"id\": 1}", "it is no XML"),
        (b"<r><x><id>1", "the document ends inside a record"),
        (b"<r><x><id>1</id></x>", "the document ends inside its root element"),
        (b"<r><x><id a=\"1", "not closed"),
    ] {
        let text = skipped(content, json!({})).await;
        assert!(text.starts_with("t.xml could not be read: line ") && text.contains(why), "{why}: {text}");
    }
    let folder = Folder::new();
    folder.write("in/a.xml.gz", &gzip(document.as_bytes())[..40]);
    folder.write("in/b.xml.gz", gzip(document.as_bytes()));
    let source = folder.source(json!({})).await;
    let mut table = Table::default();
    run(source.as_ref(), "in", &mut table).await.expect("run");
    assert_eq!((table.rows.len(), table.skipped.len()), (50, 1), "{:?}", table.skipped);
    folder.write("in/a.xml.gz", gzip(document.as_bytes()));
    run(source.as_ref(), "in", &mut table).await.expect("run");
    assert_eq!(table.rows.len(), 100);
    let problems = source.check(&Selection::default()).await.expect("check");
    assert!(problems.is_empty(), "{problems:?}");
}
