//! `ingest reveal`: the values of tokens.

use std::io::BufRead;

use ingest_core::{Error, ErrorKind};
use serde_json::json;

use super::App;
use super::args::RevealArgs;
use super::output::{Outcome, print, print_json, safe};
use crate::policy::{MaskKey, Tokens};

/// A line longer than this is no token.
const MAX_LINE: usize = 64 << 20;

/// Runs the verb: one value a line, or `[{token, value}]`.
pub fn run(app: &App, args: &RevealArgs) -> Outcome {
    let config = app.load_lake()?;
    let mut tokens = MaskKey::new(config.common.mask_key.as_ref()).tokens()?;
    let mut revealed = Vec::new();
    for token in &args.tokens {
        if token == "-" {
            for line in std::io::stdin().lock().lines() {
                let line = line.map_err(|e| {
                    Error::new(ErrorKind::Unavailable, "cannot read tokens from standard input").caused_by(e)
                })?;
                if line.len() > MAX_LINE {
                    return Err(Error::new(ErrorKind::LimitExceeded, "a line of standard input is no token").into());
                }
                take(app, &mut tokens, line.trim(), &mut revealed)?;
            }
        } else {
            take(app, &mut tokens, token, &mut revealed)?;
        }
    }
    if app.global.json {
        print_json(&revealed)?;
    }
    Ok(0)
}

fn take(app: &App, tokens: &mut Tokens, token: &str, revealed: &mut Vec<ingest_core::Json>) -> Result<(), super::Stop> {
    if token.is_empty() {
        return Ok(());
    }
    let value = tokens.reveal(token)?;
    if app.global.json {
        revealed.push(json!({ "token": token, "value": value }));
        return Ok(());
    }
    print(&format!("{}\n", safe(&value)))
}
