use std::sync::Arc;

use arrow_array::{
    BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array, StringArray,
    TimestampMicrosecondArray, UInt64Array,
};
use proptest::prelude::*;

use super::*;

/// Five columns of four rows; the last row is null.
fn table() -> Vec<(&'static str, ArrayRef)> {
    let decimals = Decimal128Array::from(vec![Some(1050), Some(-5), Some(0), None]);
    let at = TimestampMicrosecondArray::from(vec![Some(1_706_745_599_000_001), Some(0), Some(-1), None]);
    vec![
        ("id", Arc::new(Int64Array::from(vec![Some(1), Some(2), Some(-3), None])) as ArrayRef),
        ("n", Arc::new(Int32Array::from(vec![Some(7), Some(0), Some(i32::MAX), None]))),
        ("big", Arc::new(UInt64Array::from(vec![Some(u64::MAX), Some(0), Some(5), None]))),
        ("amount", Arc::new(decimals.with_precision_and_scale(10, 2).expect("a decimal"))),
        ("rate", Arc::new(Float64Array::from(vec![Some(0.5), Some(f64::NAN), Some(-1.0), None]))),
        ("status", Arc::new(StringArray::from(vec![Some("paid"), Some("open"), Some("zoë"), None]))),
        ("flag", Arc::new(BooleanArray::from(vec![Some(true), Some(false), Some(true), None]))),
        ("day", Arc::new(Date32Array::from(vec![Some(19_753), Some(0), Some(-1), None]))),
        ("at", Arc::new(at.with_timezone("UTC"))),
        ("paid.at", Arc::new(Date32Array::from(vec![Some(1), None, None, None]))),
    ]
}

fn bound(text: &str) -> std::result::Result<(Bound, Vec<ArrayRef>), Fault> {
    let condition = Condition::read(text)?;
    let table = table();
    let column = |name: &String| {
        table.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("{name} in {text}")).1.clone()
    };
    let columns: Vec<ArrayRef> = condition.columns().iter().map(column).collect();
    let types: Vec<DataType> = columns.iter().map(|column| column.data_type().clone()).collect();
    Ok((condition.bind(&types)?, columns))
}

fn failing(text: &str) -> Vec<usize> {
    let (bound, columns) = bound(text).unwrap_or_else(|fault| panic!("{text}: {fault:?}"));
    let failing = bound.failing(&columns, 4).unwrap_or_else(|error| panic!("{text}: {error:?}"));
    failing.set_indices().collect()
}

fn fault(text: &str) -> Fault {
    bound(text).err().unwrap_or_else(|| panic!("{text} was taken"))
}

#[test]
fn rows_fail_where_a_condition_is_false_and_pass_where_it_is_null() {
    for (text, rows) in [
        ("id > 0", vec![2]),
        ("amount >= 0 and (status <> 'paid' or \"paid.at\" is not null)", vec![1]),
        ("status <> 'paid' or paid.at is not null", vec![]),
        ("paid.at is not null", vec![1, 2, 3]),
        ("not (id > 0)", vec![0, 1]),
        ("id between 0 and 1", vec![1, 2]),
        ("id not between 0 and 1", vec![0]),
        ("status in ('paid', 'open')", vec![2]),
        ("status not in ('paid', null)", vec![0]),
        ("id in (1, 2.5)", vec![1, 2]),
        ("flag", vec![1]),
        ("flag is not true", vec![0, 2]),
        ("flag is false or flag is null", vec![0, 2]),
        ("id is distinct from 1", vec![0]),
        ("id is not distinct from null", vec![0, 1, 2]),
        ("id = 1 or true", vec![]),
        ("id = 1 and false", vec![0, 1, 2, 3]),
        ("id = null", vec![]),
        ("null and id = 1", vec![1, 2]),
    ] {
        assert_eq!(failing(text), rows, "{text}");
    }
}

#[test]
fn numbers_are_compared_exactly_whatever_their_types() {
    for (text, rows) in [
        ("amount = 10.5", vec![1, 2]),
        ("amount > -0.051", vec![]),
        ("amount > -0.050", vec![1]),
        ("amount <= id", vec![0, 2]),
        ("amount + 0.05 >= 0", vec![]),
        ("amount * amount = 110.25", vec![1, 2]),
        ("amount * 100 = n", vec![0, 1, 2]),
        ("big > id", vec![1]),
        ("big = 18446744073709551615", vec![1, 2]),
        ("n > 2147483648", vec![0, 1, 2]),
        ("n + 1 > n", vec![]),
        ("id < 1e3", vec![]),
        ("rate > 0", vec![2]),
        ("rate = rate", vec![]),
        ("-id < 0", vec![2]),
        ("id = -3 or id > +0", vec![]),
        ("amount = .5", vec![0, 1, 2]),
        ("id / 2 = 0.5", vec![1, 2]),
        ("n % 2 = 1", vec![1]),
        ("abs(amount) = 0.05", vec![0, 2]),
        ("ceil(amount) = 11", vec![1, 2]),
        ("floor(amount) = -1", vec![0, 2]),
        ("round(amount) = 11", vec![1, 2]),
        ("round(rate) = 1", vec![1, 2]),
        ("abs(id) = 3", vec![0, 1]),
        ("greatest(id, n, 3) = 7", vec![1, 2, 3]),
        ("least(id, 0) = 0", vec![2]),
    ] {
        assert_eq!(failing(text), rows, "{text}");
    }
}

#[test]
fn what_cannot_be_worked_out_is_null() {
    for text in [
        "1 / n > 0 or n <> 0",
        "n % 0 = 5",
        "rate / 0 = 1",
        "id * 9223372036854775807 > 0 or id <> 2",
        "cast(status as bigint) = 1",
        "cast(status as date) = day",
        "nullif(id, id) = 5",
    ] {
        assert_eq!(failing(text), Vec::<usize>::new(), "{text}");
    }
    assert_eq!(failing("1 / n is not null"), [1, 3], "and can be asked for");
}

#[test]
fn texts_dates_and_cases_are_what_they_are_in_a_database() {
    for (text, rows) in [
        ("status like 'p%'", vec![1, 2]),
        ("status not like '_o%'", vec![2]),
        ("status ilike 'PAID'", vec![1, 2]),
        ("status ~ '^[a-z]+$'", vec![2]),
        ("status !~ 'o'", vec![1, 2]),
        ("length(status) = 3", vec![0, 1]),
        ("upper(status) = 'ZOË'", vec![0, 1]),
        ("trim('  x ' || status) = 'x paid'", vec![1, 2]),
        ("substring(status from 2 for 2) = 'ai'", vec![1, 2]),
        ("substr(status, 3) = 'ë'", vec![0, 1]),
        ("starts_with(status, 'o') or ends_with(status, 'd') or contains(status, 'ë')", vec![]),
        ("coalesce(status, 'none') <> 'none'", vec![3]),
        ("coalesce(status, 'x') = 'it''s'", vec![0, 1, 2, 3]),
        ("day >= '2024-01-01'", vec![1, 2]),
        ("day < date '1970-01-02'", vec![0]),
        ("at > day", vec![1]),
        ("at >= '2024-01-31 23:59:59.000001'", vec![1, 2]),
        ("at < timestamp '1970-01-01 00:00:00'", vec![0, 1]),
        ("extract(year from at) = 2024", vec![1, 2]),
        ("extract(hour from day) = 0", vec![]),
        ("extract(epoch from at) - extract(epoch from day) < 86400", vec![]),
        ("cast(id as text) = '1'", vec![1, 2]),
        ("id::text = '1'", vec![1, 2]),
        ("cast('12' as int) = id + 11", vec![1, 2]),
        ("case when id > 1 then status = 'open' when id > 0 then false end", vec![0]),
        ("case status when 'paid' then 1 when 'open' then 2 else 0.5 end < 2", vec![1]),
    ] {
        assert_eq!(failing(text), rows, "{text}");
    }
}

#[test]
fn what_a_check_on_one_row_cannot_know_is_refused_with_its_name() {
    for (text, what) in [
        ("id in (select id from t)", "another table"),
        ("exists (select 1)", "another table"),
        ("(select 1) = id", "another table"),
        ("sum(id) > 0", "sum is about several rows"),
        ("count(*) > id", "count is about several rows"),
        ("row_number() over () = id", "row_number is about several rows"),
        ("at < now()", "now does not give the same answer each time"),
        ("day <= current_date", "current_date does not give the same answer"),
        ("random() < rate", "random does not give the same answer"),
        ("pg_sleep(id) is null", "there is no function \"pg_sleep\""),
        ("lenght(status) > 1", "there is no function \"lenght\""),
        ("length(status, 1) > 1", "length has 2 arguments"),
        ("id > 0; drop table t", "goes on behind its end"),
        ("id >", "cannot be read"),
        ("", "cannot be read"),
        ("1 = 1", "names no column"),
        ("id = $1", "cannot use"),
        ("id & 1 = 1", "the operator &"),
        ("status like upper(status)", "the pattern of `like`"),
        ("status ~ '(a{1000}){1000}'", "too large"),
        ("at > interval '1 day'", "cannot use"),
    ] {
        let fault = fault(text);
        assert!(fault.what.contains(what), "{text}: {fault:?}");
        assert!(!fault.hint.is_empty(), "{text}");
    }
    assert_eq!(fault("lenght(status) > 1").hint, "did you mean `length`?");
}

#[test]
fn types_that_do_not_fit_are_refused_before_any_row() {
    for (text, what) in [
        ("id", "the condition takes true and false"),
        ("id + 1", "the condition takes true and false"),
        ("status = 1", "Utf8 cannot be compared with a number"),
        ("status = id", "cannot be compared with"),
        ("day > 5", "cannot be compared with a number"),
        ("flag > 1", "cannot be compared with a number"),
        ("status + 1 = 2", "arithmetic takes numbers"),
        ("id like 'a'", "`like` takes text"),
        ("id and flag", "`and` takes true and false"),
        ("not status", "`not` takes true and false"),
        ("day > '2024-13-01'", "is no value of type Date32"),
        ("id > 'many'", "is no value of type Int64"),
        ("extract(year from id) = 1", "`extract` takes dates and times"),
        ("case when flag then 1 else status end = 1", "cannot be compared with"),
        ("lower(id) = 'a'", "takes text"),
        ("abs(status) = 1", "takes numbers"),
        ("cast(flag as date) = day", "cannot be cast"),
        ("cast(id as json) = 1", "cannot use the type"),
    ] {
        let fault = fault(text);
        assert!(fault.what.contains(what), "{text}: {fault:?}");
    }
    let list = DataType::new_list(DataType::Int64, true);
    let condition = Condition::read("a = a").expect("readable");
    assert!(condition.bind(std::slice::from_ref(&list)).is_err());
    assert!(
        Condition::read("a is not null").expect("readable").bind(&[list]).is_ok(),
        "whether it is there can be asked"
    );
}

#[test]
fn hostile_conditions_are_bounded_in_size_and_depth() {
    let nested = |open: &str, inner: &str, close: &str, times: usize| {
        format!("{}{inner}{}", open.repeat(times), close.repeat(times))
    };
    for text in [
        nested("(", "id = 1", ")", 1000),
        nested("not ", "flag", "", 2000),
        nested("abs(", "id", ")", 1000) + " = 1",
        nested("-", "id", "", 4000) + " = 1",
        format!("id{} = 1", " + id".repeat(1000)),
        format!("id{}", " = id".repeat(1000)),
        nested("case when flag then ", "id", " end", 200) + " = 1",
        nested("id between ", "0", " and 1", 400),
        format!("flag{}", "::text".repeat(1000)),
        nested("(", "", "", 8000),
        nested("[", "", "", 8000),
        nested("(select ", "1", ")", 500) + " = id",
    ] {
        let fault = Condition::read(&text).expect_err("bounded");
        assert!(!fault.what.is_empty() && fault.what.len() < 300, "{fault:?}");
    }
    let long = format!("id = 1{}", " or id = 1".repeat(10_000));
    assert!(Condition::read(&long).expect_err("too long").what.contains("bytes"));
    let many = format!("id = 1{}", " or id = 2".repeat(700));
    assert_eq!(failing(&many), [2], "and a row of conditions is no depth");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever is written: an answer or a fault, and never a panic.
    #[test]
    fn any_text_is_answered(words in prop::collection::vec(prop::sample::select(vec![
        "id", "status", "amount", "flag", "day", "at", "rate", "(", ")", "and", "or", "not", "=", "<", ">=", "+", "-", "*", "/", "%",
        "||", "is", "null", "true", "in", "between", "like", "case", "when", "then", "else", "end", "cast", "as", "text", "1", "0.5",
        "'a'", "'2024-01-01'", ",", "abs(", "length(", "coalesce(", "nullif(", "::", "date", "extract(year from", "~", "1e400", "$$", "\"", "'",
    ]), 0..14)) {
        let text = words.join(" ");
        if let Ok((bound, columns)) = bound_of_known(&text) {
            let failing = bound.failing(&columns, 4).expect("a bound condition is worked out");
            prop_assert_eq!(failing.len(), 4);
        }
    }
}

/// As `bound`, for texts that may name columns that are not there.
fn bound_of_known(text: &str) -> std::result::Result<(Bound, Vec<ArrayRef>), ()> {
    let condition = Condition::read(text).map_err(|_| ())?;
    let table = table();
    let column = |name: &String| table.iter().find(|(known, _)| known == name).map(|(_, array)| array.clone());
    let columns: Vec<ArrayRef> = condition.columns().iter().map(column).collect::<Option<_>>().ok_or(())?;
    let types: Vec<DataType> = columns.iter().map(|column| column.data_type().clone()).collect();
    Ok((condition.bind(&types).map_err(|_| ())?, columns))
}
