//! Data classes: what the configuration and connectors say, and what names and values of columns hint at.
//!
//! A guess is a proposal for a person. It masks nothing: what it finds may differ from one sample to the next, and a
//! table's schema must not.

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_schema::{DataType, FieldRef, Fields};
use ingest_core::{CLASS, Result, glob_matches};

use super::values::{as_texts, is_text};
use crate::config::DataClass;

/// A data class that a column may have, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guess {
    /// The class.
    pub class: DataClass,
    /// What it looks like: `e-mail`, `card number`.
    pub kind: &'static str,
}

/// What the configuration says of a path: its name, else the longest glob that matches.
pub(super) fn written(classify: &BTreeMap<String, DataClass>, path: &str) -> Option<DataClass> {
    if let Some(class) = classify.get(path) {
        return Some(*class);
    }
    let globs = classify.iter().filter(|(glob, _)| glob.contains(['*', '?']) && glob_matches(glob, path));
    globs.max_by_key(|(glob, _)| glob.len()).map(|(_, class)| *class)
}

/// The classes of a schema, by path.
pub(super) fn by_path(fields: &Fields) -> BTreeMap<String, String> {
    let mut classes = BTreeMap::new();
    collect("", fields, &mut classes);
    classes
}

fn collect(path: &str, fields: &Fields, into: &mut BTreeMap<String, String>) {
    for field in fields {
        let path = super::masks::below(path, field.name()).into_owned();
        if let Some(class) = field.metadata().get(CLASS) {
            into.insert(path.clone(), class.clone());
        }
        if let Some(fields) = inner(field.data_type()) {
            collect(&path, fields, into);
        }
    }
}

/// The fields of a struct, also of one within lists.
fn inner(data_type: &DataType) -> Option<&Fields> {
    match data_type {
        DataType::Struct(fields) => Some(fields),
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            inner(field.data_type())
        }
        _ => None,
    }
}

/// Whether a field, at any depth of structs, is so.
pub(super) fn any_field(fields: &Fields, is: &impl Fn(&FieldRef) -> bool) -> bool {
    fields.iter().any(|field| is(field) || inner(field.data_type()).is_some_and(|fields| any_field(fields, is)))
}

/// Words in names of columns, the longer before the shorter, with what they hint at.
const NAMES: [(&[&str], DataClass, &str); 14] = [
    (&["email", "e_mail", "mail_address"], DataClass::Pii, "e-mail"),
    (&["phone", "mobile", "telephone", "fax", "msisdn"], DataClass::Pii, "phone number"),
    (
        &["first_name", "last_name", "full_name", "surname", "given_name", "family_name", "maiden_name"],
        DataClass::Pii,
        "name",
    ),
    (&["firstname", "lastname", "fullname"], DataClass::Pii, "name"),
    (&["address", "street", "zip_code", "zipcode", "postal_code", "postcode"], DataClass::Pii, "address"),
    (&["birth_date", "birthdate", "date_of_birth", "birthday", "dob"], DataClass::Pii, "date of birth"),
    (&["ssn", "social_security", "national_id", "tax_id", "passport", "driver_license"], DataClass::Pii, "national id"),
    (&["ip_address", "ip_addr", "ipaddress", "client_ip", "remote_ip"], DataClass::Pii, "IP address"),
    (&["salary", "wage", "payroll"], DataClass::Restricted, "salary"),
    (&["iban", "account_number", "routing_number", "sort_code"], DataClass::Restricted, "bank account"),
    (&["card_number", "credit_card", "pan", "cvv", "cvc"], DataClass::Restricted, "payment card"),
    (&["password", "passwd", "password_hash"], DataClass::Restricted, "password"),
    (&["revenue", "margin", "profit"], DataClass::Sensitive, "business figure"),
    (&["latitude", "longitude", "geolocation"], DataClass::Pii, "place"),
];

/// What the name of a column hints at.
pub fn guess_by_name(name: &str) -> Option<Guess> {
    let mut snake = String::with_capacity(name.len() + 4);
    let mut before = '_';
    for c in name.chars() {
        // `emailAddress` and `Email Address` are `email_address`.
        if c.is_uppercase() && before.is_lowercase() {
            snake.push('_');
        }
        snake.extend(if c.is_alphanumeric() { c } else { '_' }.to_lowercase());
        before = c;
    }
    let whole = format!("_{snake}_");
    let has = |word: &str| whole.contains(&format!("_{word}_"));
    let found = NAMES.iter().find(|(words, _, _)| words.iter().any(|word| has(word)));
    found.map(|(_, class, kind)| Guess { class: *class, kind })
}

/// Values that a guess needs, and the part of them that must look alike.
const LEAST_VALUES: usize = 3;
const ALIKE: f64 = 0.8;

type Looks = fn(&str) -> bool;

/// What values look like, the surest first.
const LOOKS: [(Looks, DataClass, &str); 6] = [
    (is_email, DataClass::Pii, "e-mail"),
    (is_iban, DataClass::Restricted, "IBAN"),
    (is_card, DataClass::Restricted, "card number"),
    (is_ip, DataClass::Pii, "IP address"),
    (is_social_security, DataClass::Pii, "social security number"),
    (is_phone, DataClass::Pii, "phone number"),
];

/// What the values of a sample hint at, by column. Numbers are looked at for card numbers alone.
///
/// # Errors
/// `LimitExceeded` for texts that fit into no array.
pub fn guess_by_values(batches: &[RecordBatch]) -> Result<BTreeMap<String, Guess>> {
    let mut counts: BTreeMap<String, (usize, [usize; LOOKS.len()])> = BTreeMap::new();
    for batch in batches {
        for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            let whole = field.data_type().is_integer();
            if !(is_text(field.data_type()) || whole) || ingest_core::columns::is_reserved(field.name()) {
                continue;
            }
            let texts = as_texts(column, field.name())?;
            let (values, looks) = counts.entry(field.name().clone()).or_default();
            for text in texts.as_string::<i32>().iter().flatten().filter(|text| !text.trim().is_empty()) {
                *values += 1;
                let look = LOOKS.iter().position(|(is, _, kind)| (!whole || *kind == "card number") && is(text.trim()));
                looks[look.unwrap_or(usize::MAX).min(LOOKS.len() - 1)] += usize::from(look.is_some());
            }
        }
    }
    let mut guesses = BTreeMap::new();
    for (column, (values, looks)) in counts {
        let best = (0..LOOKS.len()).max_by_key(|look| (looks[*look], LOOKS.len() - look));
        let Some(look) = best.filter(|look| values >= LEAST_VALUES && looks[*look] as f64 >= ALIKE * values as f64)
        else {
            continue;
        };
        guesses.insert(column, Guess { class: LOOKS[look].1, kind: LOOKS[look].2 });
    }
    Ok(guesses)
}

fn is_email(text: &str) -> bool {
    let Some((user, host)) = text.split_once('@') else { return false };
    let plain = |c: char| !c.is_whitespace() && !matches!(c, '@' | '<' | '>' | ',' | ';');
    !user.is_empty()
        && host.split('.').count() >= 2
        && host.split('.').all(|label| !label.is_empty())
        && text.len() <= 254
        && user.chars().chain(host.chars()).all(plain)
}

/// ISO 13616: two letters, two digits of a check over the rest, by 97.
fn is_iban(text: &str) -> bool {
    let text: String = text.chars().filter(|c| *c != ' ').collect();
    let shape = (15..=34).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
        && text.bytes().take(2).all(|b| b.is_ascii_uppercase())
        && text.bytes().skip(2).take(2).all(|b| b.is_ascii_digit());
    if !shape {
        return false;
    }
    let turned = text[4..].bytes().chain(text[..4].bytes());
    let rest = turned.fold(0_u32, |rest, byte| match byte {
        b'0'..=b'9' => (rest * 10 + u32::from(byte - b'0')) % 97,
        letter => (rest * 100 + u32::from(letter - b'A') + 10) % 97,
    });
    rest == 1
}

/// ISO/IEC 7812: 13 to 19 digits with Luhn's check, of one of the networks.
fn is_card(text: &str) -> bool {
    let digits: Vec<u32> = text.chars().filter(|c| !matches!(c, ' ' | '-')).map_while(|c| c.to_digit(10)).collect();
    let whole = text.chars().all(|c| c.is_ascii_digit() || matches!(c, ' ' | '-'));
    if !whole || !(13..=19).contains(&digits.len()) || !matches!(digits[0], 2..=6) {
        return false;
    }
    let luhn = digits.iter().rev().enumerate().map(|(place, digit)| match place % 2 {
        0 => *digit,
        _ => (digit * 2) / 10 + (digit * 2) % 10,
    });
    luhn.sum::<u32>() % 10 == 0
}

fn is_ip(text: &str) -> bool {
    // A bare number is no address, and neither are times such as 10:00:00.
    (text.matches('.').count() == 3 || text.matches(':').count() >= 2) && text.parse::<std::net::IpAddr>().is_ok()
}

fn is_social_security(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    matches!(parts.as_slice(), [a, b, c] if (a.len(), b.len(), c.len()) == (3, 2, 4)
        && [a, b, c].iter().all(|part| part.bytes().all(|b| b.is_ascii_digit())))
}

/// Digits with the marks that people put between them; a row of digits alone may be anything.
fn is_phone(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    let marks = text.chars().all(|c| c.is_ascii_digit() || matches!(c, '+' | ' ' | '-' | '(' | ')' | '.' | '/'));
    let begins = text.starts_with('+') || text.starts_with('(') || text.starts_with('0');
    let parted = text.starts_with('+') || text.contains([' ', '-', '(', '/']);
    marks && begins && parted && (7..=15).contains(&digits)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array, StringArray};

    use super::*;

    #[test]
    fn names_hint_at_classes_in_every_spelling() {
        for (name, class) in [
            ("email", Some(DataClass::Pii)),
            ("customerEmail", Some(DataClass::Pii)),
            ("E-Mail", Some(DataClass::Pii)),
            ("Phone Number", Some(DataClass::Pii)),
            ("billing_address", Some(DataClass::Pii)),
            ("salary", Some(DataClass::Restricted)),
            ("gross_margin", Some(DataClass::Sensitive)),
            ("id", None),
            ("company", None),
            ("mailed", None),
            ("updated_at", None),
        ] {
            assert_eq!(guess_by_name(name).map(|guess| guess.class), class, "{name}");
        }
    }

    #[test]
    fn values_hint_at_classes_by_their_checks() {
        let text = |values: &[&str]| -> ArrayRef { Arc::new(StringArray::from(values.to_vec())) };
        let numbers: ArrayRef =
            Arc::new(Int64Array::from(vec![4111111111111111, 5500005555555559, 340000000000009, 6011000000000004]));
        let batch = RecordBatch::try_from_iter([
            ("a", text(&["x@example.com", "y.z@mail.example.org", "q@e.co", "w@e.co"])),
            (
                "b",
                text(&[
                    "DE89 3704 0044 0532 0130 00",
                    "GB82WEST12345698765432",
                    "FR1420041010050500013M02606",
                    "NL91ABNA0417164300",
                ]),
            ),
            ("c", text(&["4111 1111 1111 1111", "5500-0055-5555-5559", "340000000000009", "6011000000000004"])),
            ("d", text(&["10.0.0.1", "::1", "2001:db8::1", "192.168.1.1"])),
            ("e", text(&["+49 30 123456", "(555) 123-4567", "+15551234567", "030/1234567"])),
            ("f", numbers),
            ("g", text(&["DE89 3704 0044 0532 0130 01", "4111111111111112", "10:00:00", "2024-01-01"])),
            ("h", text(&["123-45-6789", "987-65-4321", "111-22-3333", "222-33-4444"])),
            ("i", text(&["x@example.com", "nobody", "none", "-"])),
        ])
        .expect("a batch");
        let found: Vec<(String, &str)> =
            guess_by_values(&[batch]).expect("guessed").into_iter().map(|(name, guess)| (name, guess.kind)).collect();
        let expected = [
            ("a", "e-mail"),
            ("b", "IBAN"),
            ("c", "card number"),
            ("d", "IP address"),
            ("e", "phone number"),
            ("f", "card number"),
            ("h", "social security number"),
        ];
        assert_eq!(found, expected.map(|(name, kind)| (name.to_owned(), kind)));
    }
}
