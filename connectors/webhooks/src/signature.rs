//! Who sent a delivery: signatures and time stamps.
//!
//! | sender | header | what is signed | time stamp |
//! | --- | --- | --- | --- |
//! | `stripe` | `Stripe-Signature: t=<seconds>,v1=<hex>…` | `<t>.<body>` | `t` |
//! | `shopify` | `X-Shopify-Hmac-Sha256: <base64>` | the body | none |
//! | `hmac` | `signature_header` | the body, or `<time>.<body>` | `timestamp_header`, if it is named |
//!
//! Sources: <https://docs.stripe.com/webhooks#verify-manually>, <https://shopify.dev/docs/apps/build/webhooks/subscribe/https>.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use hyper::HeaderMap;
use ingest_core::Secret;
use sha2::Sha256;

use crate::config::{Encoding, Sender, WebhooksConfig};

/// Signatures of one delivery that are looked at.
const MOST: usize = 16;

/// Why a delivery is not taken. Says nothing of the secret or the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A header is missing or cannot be read.
    Unsigned,
    /// No signature is ours.
    Wrong,
    /// Its time stamp is too far from now.
    Stale,
}

/// Checks a delivery at a time, in Unix seconds. Signatures are compared in constant time.
pub(crate) fn verify(config: &WebhooksConfig, headers: &HeaderMap, body: &[u8], now: i64) -> Result<(), Refusal> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).ok_or(Refusal::Unsigned);
    let (time, signatures): (Option<&str>, Vec<Vec<u8>>) = match config.sender {
        Sender::Stripe => {
            let (time, signatures) = of_stripe(text("stripe-signature")?)?;
            (Some(time), signatures)
        }
        Sender::Shopify => (None, vec![decoded(text("x-shopify-hmac-sha256")?, Encoding::Base64)?]),
        Sender::Hmac => {
            let signature = text(&config.signature_header)?.trim();
            let signature = signature.strip_prefix(config.signature_prefix.as_str()).ok_or(Refusal::Unsigned)?;
            let time = config.timestamp_header.as_deref().map(text).transpose()?.map(str::trim);
            (time, vec![decoded(signature, config.signature_encoding)?])
        }
    };
    let secrets = [Some(&config.secret), config.previous_secret.as_ref()];
    let mut secrets = secrets.into_iter().flatten().filter(|secret| !secret.is_empty());
    if !secrets.any(|secret| signatures.iter().any(|signature| is_of(secret, time, body, signature))) {
        return Err(Refusal::Wrong);
    }
    if let Some(time) = time {
        let time: i64 = time.parse().map_err(|_| Refusal::Unsigned)?;
        if now.abs_diff(time) > config.tolerance.0.as_secs() {
            return Err(Refusal::Stale);
        }
    }
    Ok(())
}

/// The time stamp and the signatures of the scheme `v1`: while a secret is replaced there are several.
fn of_stripe(header: &str) -> Result<(&str, Vec<Vec<u8>>), Refusal> {
    let mut time = None;
    let mut signatures = Vec::new();
    for part in header.split(',') {
        match part.trim().split_once('=') {
            Some(("t", text)) => time = Some(text),
            Some(("v1", text)) if signatures.len() < MOST => signatures.push(decoded(text, Encoding::Hex)?),
            _ => {}
        }
    }
    match (time, signatures.is_empty()) {
        (Some(time), false) => Ok((time, signatures)),
        _ => Err(Refusal::Unsigned),
    }
}

fn is_of(secret: &Secret, time: Option<&str>, body: &[u8], signature: &[u8]) -> bool {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).expect("HMAC takes a key of any length");
    if let Some(time) = time {
        mac.update(time.as_bytes());
        mac.update(b".");
    }
    mac.update(body);
    mac.verify_slice(signature).is_ok()
}

fn decoded(text: &str, encoding: Encoding) -> Result<Vec<u8>, Refusal> {
    let text = text.trim();
    match encoding {
        Encoding::Base64 => STANDARD.decode(text).map_err(|_| Refusal::Unsigned),
        Encoding::Hex => {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
                [high, low] => Some((digit(*high)? << 4 | digit(*low)?) as u8),
                _ => None,
            });
            pairs.collect::<Option<Vec<u8>>>().ok_or(Refusal::Unsigned)
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};
    use serde_json::{Value, json};

    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn config(fields: Value) -> WebhooksConfig {
        serde_json::from_value(fields).expect("config")
    }

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (HeaderName::from_bytes(name.as_bytes()).expect("name"), HeaderValue::from_str(value).expect("value"))
        };
        pairs.iter().map(pair).collect()
    }

    /// Made with Stripe's own library.
    const STRIPE: &str = "t=1700000000,v1=248a374f50f943a28b0f6ab50faf9a7e7e29b710fa26df9fb1618b9bf8ea9c9a";

    #[test]
    fn what_stripe_signed_is_taken_and_nothing_else() {
        let config = config(json!({"sender": "stripe", "secret": "whsec_test_secret"}));
        let check =
            |header: &str, body: &[u8], now| verify(&config, &headers(&[("stripe-signature", header)]), body, now);
        let body = br#"{"id":"evt_1"}"#;
        assert_eq!(check(STRIPE, body, NOW), Ok(()));
        assert_eq!(check(STRIPE, body, NOW + 300), Ok(()));
        assert_eq!(check(&format!("{STRIPE},v1=00,v0=zz"), body, NOW), Ok(()), "one of several is enough");
        assert_eq!(check(STRIPE, br#"{"id":"evt_2"}"#, NOW), Err(Refusal::Wrong));
        assert_eq!(check(&STRIPE.replace("1700000000", "1700000001"), body, NOW), Err(Refusal::Wrong));
        assert_eq!(check(STRIPE, body, NOW + 301), Err(Refusal::Stale));
        assert_eq!(check(STRIPE, body, NOW - 301), Err(Refusal::Stale));
        for broken in ["", "t=1700000000", "v1=00", "t=,v1=zz", "t=1,v1=0", "t=1,v0=00"] {
            assert_eq!(check(broken, body, NOW), Err(Refusal::Unsigned), "{broken}");
        }
        assert_eq!(verify(&config, &HeaderMap::new(), body, NOW), Err(Refusal::Unsigned));
    }

    #[test]
    fn what_shopify_signed_is_taken_also_with_the_secret_before() {
        let signed = headers(&[("x-shopify-hmac-sha256", "VnKUjZsLuN5iZWjn5EntcBVCF9kMN43LglzCE1/GSeY=")]);
        let now = config(json!({"sender": "shopify", "secret": "hush"}));
        assert_eq!(verify(&now, &signed, br#"{"id":1}"#, NOW), Ok(()));
        assert_eq!(verify(&now, &signed, br#"{"id":2}"#, NOW), Err(Refusal::Wrong));
        let rolled = config(json!({"sender": "shopify", "secret": "new", "previous_secret": "hush"}));
        assert_eq!(verify(&rolled, &signed, br#"{"id":1}"#, NOW), Ok(()));
        let other = config(json!({"sender": "shopify", "secret": "new", "previous_secret": ""}));
        assert_eq!(verify(&other, &signed, br#"{"id":1}"#, NOW), Err(Refusal::Wrong));
    }

    #[test]
    fn a_signature_of_anybody_is_read_as_it_was_described() {
        // RFC 4231, test case 2.
        let hex = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        let body = b"what do ya want for nothing?";
        let hub =
            config(json!({"secret": "Jefe", "signature_header": "X-Hub-Signature-256", "signature_prefix": "sha256="}));
        let signed = |text: &str| headers(&[("x-hub-signature-256", text)]);
        assert_eq!(verify(&hub, &signed(&format!("sha256={hex}")), body, NOW), Ok(()));
        assert_eq!(verify(&hub, &signed(&format!("sha256={}", hex.to_uppercase())), body, NOW), Ok(()));
        assert_eq!(verify(&hub, &signed(hex), body, NOW), Err(Refusal::Unsigned), "without what stands before it");
        assert_eq!(verify(&hub, &signed("sha256=5bdc"), body, NOW), Err(Refusal::Wrong), "its beginning is not enough");
        let timed = config(json!({"secret": "whsec_test_secret", "timestamp_header": "X-Time"}));
        let v1 = STRIPE.split("v1=").nth(1).expect("a signature");
        let body = br#"{"id":"evt_1"}"#;
        assert_eq!(verify(&timed, &headers(&[("x-signature", v1), ("x-time", "1700000000")]), body, NOW), Ok(()));
        assert_eq!(verify(&timed, &headers(&[("x-signature", v1)]), body, NOW), Err(Refusal::Unsigned));
    }
}
