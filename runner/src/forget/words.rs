//! Words in texts: statistics, documents, records that nobody can take apart.

use memchr::memmem;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// A number of fewer digits says nothing of whom it belongs to where it stands alone.
const LEAST_DIGITS: usize = 8;

/// A shorter text counts between quotes alone.
const LEAST_TEXT: usize = 5;

/// Texts that are searched for as whole words, in the spellings in which JSON and paths have them.
#[derive(Debug, Clone, Default)]
pub struct Words(Vec<Word>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Word {
    bytes: Vec<u8>,
    quoted: bool,
}

impl Words {
    /// The words to search for. Short numbers are left out: they are everywhere.
    pub fn new<'t>(texts: impl IntoIterator<Item = &'t str>) -> Self {
        let mut words: Vec<Word> = Vec::new();
        for text in texts.into_iter().filter(|text| !text.is_empty()) {
            let is_number = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'.'));
            if is_number && text.bytes().filter(u8::is_ascii_digit).count() < LEAST_DIGITS {
                continue;
            }
            let quoted = text.chars().count() < LEAST_TEXT;
            let once = escaped(text);
            let spellings =
                [text.to_owned(), escaped(&once), once, utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()];
            for spelling in spellings {
                let word = Word { bytes: spelling.into_bytes(), quoted };
                if !words.contains(&word) {
                    words.push(word);
                }
            }
        }
        Self(words)
    }

    /// Whether a text holds one of them.
    pub fn are_in(&self, text: &[u8]) -> bool {
        self.0.iter().any(|word| word.is_in(text))
    }
}

impl Word {
    fn is_in(&self, text: &[u8]) -> bool {
        let is_edge = |byte: Option<&u8>, own: Option<&u8>| match byte {
            None => !self.quoted,
            Some(byte) if self.quoted => matches!(byte, b'"' | b'\\' | b'\''),
            Some(byte) => !(own.is_some_and(|own| is_letter(*own)) && is_letter(*byte)),
        };
        memmem::find_iter(text, &self.bytes).any(|start| {
            let before = start.checked_sub(1).and_then(|place| text.get(place));
            let after = text.get(start + self.bytes.len());
            is_edge(before, self.bytes.first()) && is_edge(after, self.bytes.last())
        })
    }
}

fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80
}

/// As JSON has it within quotes.
fn escaped(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_whole_and_in_every_spelling() {
        let words = Words::new(["ada@example.com", "O\"Neil \\ Zoë", "42", "123456789", "ada"]);
        for text in [
            r#"{"stats":"{\"minValues\":{\"email\":\"ada@example.com\"}}"}"#,
            "email=ada%40example%2Ecom/part.parquet",
            r#"{"name": "O\"Neil \\ Zoë"}"#,
            r#"{"stats":"{\"name\":\"O\\\"Neil \\\\ Zoë\"}"}"#,
            r#"{"id":123456789}"#,
            r#"{"id":"ada"}"#,
            r#""{\"id\":\"ada\"}""#,
            "ada@example.com",
        ] {
            assert!(words.are_in(text.as_bytes()), "{text}");
        }
        for text in ["xada@example.com", "ada@example.comx", r#"{"id":42}"#, "1234567890", "canada", "ada and eve", ""]
        {
            assert!(!words.are_in(text.as_bytes()), "{text}");
        }
    }
}
