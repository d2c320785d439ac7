//! Signatures of webhooks, by the libraries of those who send them.
//!
//! | sender | what makes the signature |
//! | --- | --- |
//! | Stripe | `webhooks.generateTestHeaderString` of its Node library |
//! | Shopify | HMAC-SHA256 of Node; `webhooks.validate` of its Node library must call it right |
//! | anybody | [`hmac_sha256`] |

use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::{hmac, programs};

/// The headers `Stripe-Signature` of these bodies, signed at a time in Unix seconds; `None` when `INGEST_TEST_SKIP` names
/// `signers`.
///
/// # Panics
/// When the library is not installed or fails.
pub async fn stripe(secret: &str, time: u64, bodies: &[String]) -> Option<Vec<String>> {
    sign("stripe", secret, time, bodies).await
}

/// The headers `X-Shopify-Hmac-Sha256` of these bodies; `None` when `INGEST_TEST_SKIP` names `signers`.
///
/// # Panics
/// When the library is not installed or fails.
pub async fn shopify(secret: &str, bodies: &[String]) -> Option<Vec<String>> {
    sign("shopify", secret, 0, bodies).await
}

/// The code of a message under a key, in hexadecimal.
pub fn hmac_sha256(key: &[u8], message: &[u8]) -> String {
    hmac::sha256(key, message).iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn sign(sender: &str, secret: &str, time: u64, bodies: &[String]) -> Option<Vec<String>> {
    let modules = programs::home().join("node/node_modules");
    programs::find("signers", &[modules.join("stripe/package.json")])?;
    programs::find("signers", &[modules.join("@shopify/shopify-api/package.json")])?;
    let node = programs::find("signers", &["node".into()])?;
    let mut command = Command::new(node);
    command.arg("-e").arg(include_str!("signers/sign.js")).args([sender, secret, &time.to_string()]);
    command.env("NODE_PATH", modules).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().expect("node starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let text = serde_json::to_vec(bodies).expect("texts");
    let write = async move {
        stdin.write_all(&text).await.expect("node reads");
        drop(stdin);
    };
    let ((), output) = tokio::join!(write, child.wait_with_output());
    let output = output.expect("node runs");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the library of {sender} fails: {complaints}");
    Some(serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{sender} printed no signatures: {e}")))
}
