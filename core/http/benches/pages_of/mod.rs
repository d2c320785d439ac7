//! Pages as a payment API sends them: 100 objects of about 1 kB, 21 keys each, five of them nested.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use ingest_core::json::FORMAT;
use serde_json::value::RawValue;

/// Objects a page.
pub const OBJECTS_PER_PAGE: usize = 100;

/// A page that begins with object number `from`.
pub fn page(from: usize, more: bool) -> String {
    let mut page = format!(r#"{{"object":"list","url":"/v1/charges","has_more":{more},"data":["#);
    for id in from..from + OBJECTS_PER_PAGE {
        if id > from {
            page.push(',');
        }
        object(&mut page, id);
    }
    page.push_str("]}");
    page
}

fn object(out: &mut String, id: usize) {
    let description = if id.is_multiple_of(20) { r#"caf\u00e9 \"nr\" 5"# } else { "an order of some goods" };
    write!(
        out,
        concat!(
            r#"{{"id":"ch_{id:024}","object":"charge","amount":{amount},"amount_captured":{amount},"amount_refunded":0,"#,
            r#""balance_transaction":"txn_{id:024}","captured":true,"created":{created},"currency":"eur","#,
            r#""customer":"cus_{customer:014}","description":"{description}","fee":{fee}.{cents:02},"livemode":false,"#,
            r#""paid":true,"status":"succeeded","failure_code":null,"#,
            r#""billing_details":{{"address":{{"city":"Rotterdam","country":"NL","line1":"Coolsingel 40","line2":null,"#,
            r#""postal_code":"3011 AD","state":null}},"email":"person{id}@example.com","name":"Person {id}","phone":null}},"#,
            r#""metadata":{{"order_id":"{id}","channel":"web","campaign":"autumn"}},"#,
            r#""outcome":{{"network_status":"approved_by_network","risk_level":"normal","risk_score":{risk},"#,
            r#""seller_message":"Payment complete.","type":"authorized"}},"#,
            r#""payment_method_details":{{"card":{{"brand":"visa","country":"NL","exp_month":8,"exp_year":2029,"#,
            r#""fingerprint":"Xt5EWLLDS7FJjR1c","funding":"credit","last4":"4242","network":"visa"}},"type":"card"}},"#,
            r#""refunds":[],"radar_options":{{}},"source_transfer":null}}"#
        ),
        id = id,
        amount = 1_000 + id,
        created = 1_700_000_000 + id,
        customer = id % 5_000,
        description = description,
        fee = id % 90,
        cents = id % 100,
        risk = id % 60,
    )
    .expect("writing to memory");
}

/// CPU time of this process so far, from the scheduler's nanosecond counter of each of its threads.
pub fn cpu_time() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let nanos = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok());
    Duration::from_nanos(nanos.filter_map(|text| text.split(' ').next()?.parse::<u64>().ok()).sum())
}

/// The objects of a page, one text each.
#[allow(dead_code)]
pub fn objects(page: &str) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Page<'a> {
        #[serde(borrow)]
        data: Vec<&'a RawValue>,
    }
    let page: Page<'_> = serde_json::from_str(page).expect("a page");
    page.data.into_iter().map(|object| object.get().to_owned()).collect()
}

/// 13 scalar columns, one of them a decimal, and 5 that keep JSON text; two keys have no column.
pub fn schema() -> SchemaRef {
    let with = |field: Field, format: &str| field.with_metadata([(FORMAT.to_owned(), format.to_owned())].into());
    let mut fields = Vec::new();
    for name in ["id", "object", "balance_transaction", "currency", "customer", "description", "status", "failure_code"]
    {
        fields.push(Field::new(name, DataType::Utf8, name != "id"));
    }
    for name in ["amount", "amount_captured", "amount_refunded"] {
        fields.push(Field::new(name, DataType::Int64, true));
    }
    for name in ["captured", "livemode", "paid"] {
        fields.push(Field::new(name, DataType::Boolean, true));
    }
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    fields.push(with(Field::new("created", time, true), "unix_s"));
    fields.push(Field::new("fee", DataType::Decimal128(18, 2), true));
    for name in ["billing_details", "metadata", "outcome", "payment_method_details", "refunds"] {
        fields.push(with(Field::new(name, DataType::Utf8, true), "json"));
    }
    Arc::new(Schema::new(fields))
}
