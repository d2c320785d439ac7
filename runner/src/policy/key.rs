//! The mask key: what `hash` and `token` stand on.
//!
//! `hash` is HMAC-SHA256 (RFC 2104) under the key as it is written, so that any other program with the key gets the same;
//! without a key it is plain SHA-256. `token` is AES-256-SIV (RFC 5297), deterministic authenticated encryption, under a
//! key that is derived by HMAC-SHA512: another function than that of `hash`, so that no hash in the lake is a part of it.

use std::fmt;

use aes_siv::KeyInit as _;
use aes_siv::siv::Aes256Siv;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use ingest_core::{Error, ErrorKind, Result, Secret};
use sha2::{Digest, Sha256, Sha512};

/// What every token begins with: the scheme and its version.
const PREFIX: &str = "tok1_";

/// What a key is derived for.
const FOR_TOKENS: &[u8] = b"ingest: key of tokens, AES-256-SIV";
const FOR_PRINTS: &[u8] = b"ingest: fingerprint of a mask key";

/// A key shorter than this can be guessed; `check` says so.
pub const SHORT: usize = 16;

/// The mask key, ready for use. No `Debug` shows it.
#[derive(Clone)]
pub struct MaskKey(Option<Keyed>);

#[derive(Clone)]
struct Keyed {
    hash: Hmac<Sha256>,
    token: [u8; 64],
    fingerprint: String,
    bytes: usize,
}

impl fmt::Debug for MaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "MaskKey(***)" } else { "MaskKey(none)" })
    }
}

impl MaskKey {
    /// Takes the key of the configuration; `None` = there is none.
    pub fn new(secret: Option<&Secret>) -> Self {
        Self(secret.map(|secret| {
            let key = secret.expose().as_bytes();
            let derived = |purpose: &[u8]| -> [u8; 64] {
                let mac = Hmac::<Sha512>::new_from_slice(key).expect("HMAC takes a key of any length");
                mac.chain_update(purpose).finalize().into_bytes().into()
            };
            Keyed {
                hash: Hmac::new_from_slice(key).expect("HMAC takes a key of any length"),
                token: derived(FOR_TOKENS),
                fingerprint: hex(&derived(FOR_PRINTS)[..8]),
                bytes: key.len(),
            }
        }))
    }

    /// Whether there is a key.
    pub fn is_given(&self) -> bool {
        self.0.is_some()
    }

    /// Whether the key is so short that it can be guessed.
    pub fn is_short(&self) -> bool {
        self.0.as_ref().is_some_and(|keyed| keyed.bytes < SHORT)
    }

    /// What tells keys apart and says nothing of them; `none` where there is no key.
    pub fn fingerprint(&self) -> &str {
        self.0.as_ref().map_or("none", |keyed| &keyed.fingerprint)
    }

    /// The hash of a text.
    pub fn hash(&self, text: &[u8]) -> [u8; 32] {
        match &self.0 {
            Some(keyed) => keyed.hash.clone().chain_update(text).finalize().into_bytes().into(),
            None => Sha256::digest(text).into(),
        }
    }

    /// What makes tokens, and reads them.
    ///
    /// # Errors
    /// `ConfigInvalid` where there is no key.
    pub fn tokens(&self) -> Result<Tokens> {
        let keyed = self.0.as_ref().ok_or_else(|| {
            Error::config("there is no mask key")
                .hint("write `mask_key: ${MASK_KEY}` at the top of the configuration, and set the variable")
        })?;
        Ok(Tokens(Aes256Siv::new(&keyed.token.into())))
    }
}

/// Makes tokens of texts, and texts of tokens.
pub struct Tokens(Aes256Siv);

impl Tokens {
    /// Appends the token of a text.
    ///
    /// # Errors
    /// `Unexpected`: the cipher refuses nothing that fits into memory.
    pub fn write(&mut self, text: &[u8], out: &mut String) -> Result<()> {
        const NO_HEADERS: [&[u8]; 0] = [];
        let sealed = self.0.encrypt(NO_HEADERS, text).map_err(|_| Error::unexpected("cannot make a token"))?;
        out.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(sealed, out);
        Ok(())
    }

    /// The text of a token.
    ///
    /// # Errors
    /// `DataInvalid` for what is no token, and for one that another key has made.
    pub fn reveal(&mut self, token: &str) -> Result<String> {
        const NO_HEADERS: [&[u8]; 0] = [];
        let sealed =
            token.strip_prefix(PREFIX).and_then(|rest| URL_SAFE_NO_PAD.decode(rest).ok()).ok_or_else(|| {
                Error::new(ErrorKind::DataInvalid, "this is no token")
                    .hint(format!("tokens are the values of columns with `mask: token`; they begin with {PREFIX}"))
            })?;
        let text = self.0.decrypt(NO_HEADERS, &sealed).map_err(|_| {
            Error::new(ErrorKind::DataInvalid, "the token was not made with this mask key")
                .hint("is `mask_key` the key that was set when the rows were loaded? is the token whole?")
        })?;
        String::from_utf8(text).map_err(|_| Error::unexpected("a token holds no text"))
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(char::from(HEX[usize::from(byte >> 4)]));
        out.push(char::from(HEX[usize::from(byte & 15)]));
    }
    out
}

/// The digits of hexadecimal numbers.
pub(super) const HEX: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> MaskKey {
        MaskKey::new(Some(&Secret::new(text)))
    }

    #[test]
    fn hashes_are_those_of_rfc_4231_and_of_sha256() {
        assert_eq!(
            hex(&key("Jefe").hash(b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hex(&MaskKey::new(None).hash(b"abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn a_token_is_equal_for_equal_texts_and_only_its_key_reads_it() {
        let mut tokens = key("one").tokens().expect("a key");
        for text in ["", "a", "zoë@example.com", &"x".repeat(10_000)] {
            let (mut first, mut second) = (String::new(), String::new());
            tokens.write(text.as_bytes(), &mut first).expect("made");
            tokens.write(text.as_bytes(), &mut second).expect("made");
            assert_eq!(first, second);
            assert!(text.is_empty() || !first.contains(text));
            assert_eq!(tokens.reveal(&first).expect("ours"), text);
            assert!(key("two").tokens().expect("a key").reveal(&first).is_err());
            let mut bent = first.clone();
            bent.replace_range(10..11, if &first[10..11] == "A" { "B" } else { "A" });
            assert!(tokens.reveal(&bent).is_err(), "a changed token is refused");
        }
        assert!(tokens.reveal("nothing of ours").is_err());
        assert!(tokens.reveal("tok1_").is_err());
        assert!(MaskKey::new(None).tokens().is_err());
    }

    #[test]
    fn a_fingerprint_tells_keys_apart_and_is_no_part_of_them() {
        assert_eq!(key("one").fingerprint(), key("one").fingerprint());
        assert_ne!(key("one").fingerprint(), key("two").fingerprint());
        assert_eq!(MaskKey::new(None).fingerprint(), "none");
        assert!(!format!("{:?}", key("one")).contains("one"));
    }
}
