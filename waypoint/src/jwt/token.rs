// SPDX-License-Identifier: Apache-2.0
//! Tokens as they come (JWS in its compact form, RFC 7515 §3.1; JWT, RFC 7519). Nothing in one is believed before its
//! signature was checked; what it says of keys by itself (`jwk`, `jku`, `x5c`) is never looked at.

use std::collections::BTreeMap;

use arcstr::ArcStr;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use mesh::l7::claims::Claim;
use serde_json::{Map, Value};

/// The longest token that is looked at.
pub const LONGEST: usize = 16 << 10;
/// How far clocks may be apart, in seconds.
const LEEWAY: f64 = 60.0;

/// A token that is well formed; nothing of it is proven.
#[derive(Clone, Debug)]
pub struct Token<'a> {
    /// What is signed.
    pub signed: &'a str,
    /// The signature.
    pub signature: Vec<u8>,
    /// How it is made.
    pub algorithm: Algorithm,
    /// Which key made it.
    pub kid: Option<String>,
    /// The claims as they are written.
    pub payload: &'a str,
    claims: Map<String, Value>,
}

/// How signatures are made (RFC 7518 §3.1, RFC 8037): with a key pair, never with a shared secret and never not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5.
    Rs(Hash),
    /// RSASSA-PSS.
    Ps(Hash),
    /// ECDSA with the curve that goes with the hash.
    Es(Hash),
    /// Ed25519.
    EdDsa,
}

/// SHA-2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// 256 bits.
    Sha256,
    /// 384 bits.
    Sha384,
    /// 512 bits.
    Sha512,
}

impl Algorithm {
    /// By its name.
    pub fn named(name: &str) -> Option<Self> {
        if name == "EdDSA" {
            return Some(Self::EdDsa);
        }
        let (family, bits) = name.split_at_checked(2)?;
        let hash = match bits {
            "256" => Hash::Sha256,
            "384" => Hash::Sha384,
            "512" => Hash::Sha512,
            _ => return None,
        };
        match family {
            "RS" => Some(Self::Rs(hash)),
            "PS" => Some(Self::Ps(hash)),
            "ES" => Some(Self::Es(hash)),
            _ => None,
        }
    }
}

/// Why a token is not believed. The words are those that clients of Istio know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub &'static str);

impl<'a> Token<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// When it is too long, is none, or is signed in a way that proves nothing.
    pub fn parse(text: &'a str) -> Result<Self, Invalid> {
        if text.len() > LONGEST {
            return Err(Invalid("Jwt is too long"));
        }
        let form = Invalid("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections");
        let (signed, signature) = text.rsplit_once('.').ok_or(form)?;
        let (header, payload) = signed.split_once('.').ok_or(form)?;
        if payload.contains('.') {
            return Err(form);
        }
        let header = object(header).map_err(|broken| match broken {
            Broken::Base64 => Invalid("Jwt header is an invalid Base64url encoded"),
            Broken::Json => Invalid("Jwt header is an invalid JSON"),
        })?;
        // It says that something must be understood that is not (RFC 7515 §4.1.11).
        if header.contains_key("crit") {
            return Err(Invalid("Jwt header has extensions that are not supported"));
        }
        let algorithm = header.get("alg").and_then(Value::as_str).and_then(Algorithm::named);
        let algorithm = algorithm.ok_or(Invalid("Jwt header [alg] is not supported"))?;
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err(Invalid("Jwt header [kid] field is not a string")),
        };
        let claims = object(payload).map_err(|broken| match broken {
            Broken::Base64 => Invalid("Jwt payload is an invalid Base64url encoded"),
            Broken::Json => Invalid("Jwt payload is an invalid JSON"),
        })?;
        let signature = URL_SAFE_NO_PAD.decode(signature);
        let signature =
            signature.map_err(|_broken| Invalid("Jwt signature is an invalid Base64url encoded"))?;
        Ok(Self { signed, signature, algorithm, kid, payload, claims })
    }

    /// Who says that it is theirs.
    pub fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    /// Whether it holds at a moment, in seconds since 1970.
    ///
    /// # Errors
    /// When it does not yet, no more, or does not say it in numbers.
    pub fn holds_at(&self, now: u64) -> Result<(), Invalid> {
        let number = |name| match self.claims.get(name) {
            None => Ok(None),
            Some(value) => value.as_f64().filter(|at| *at >= 0.0).map(Some).ok_or(()),
        };
        let from = number("nbf").map_err(|()| Invalid("Jwt payload [nbf] field is not a positive number"))?;
        let until =
            number("exp").map_err(|()| Invalid("Jwt payload [exp] field is not a positive number"))?;
        #[expect(clippy::cast_precision_loss, reason = "seconds are exact for the next million years")]
        let now = now as f64;
        if from.is_some_and(|from| from > now + LEEWAY) {
            return Err(Invalid("Jwt not yet valid"));
        }
        if until.is_some_and(|until| until + LEEWAY < now) {
            return Err(Invalid("Jwt is expired"));
        }
        Ok(())
    }

    /// Whether it is for one of these, or they are none. As in Istio neither a scheme nor a slash at the end counts.
    ///
    /// # Errors
    /// When it is for others.
    pub fn is_for(&self, audiences: &[ArcStr]) -> Result<(), Invalid> {
        let is_known = |text: &str| audiences.iter().any(|known| bare(known) == bare(text));
        let fits = match self.claims.get("aud") {
            Some(Value::String(text)) => is_known(text),
            Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).any(is_known),
            Some(_) | None => false,
        };
        if audiences.is_empty() || fits { Ok(()) } else { Err(Invalid("Audiences in Jwt are not allowed")) }
    }

    /// What it says.
    pub fn claims(&self) -> BTreeMap<ArcStr, Claim> {
        map(&self.claims)
    }
}

fn bare(audience: &str) -> &str {
    let text = audience.strip_prefix("https://").or_else(|| audience.strip_prefix("http://"));
    let text = text.unwrap_or(audience);
    text.strip_suffix('/').unwrap_or(text)
}

enum Broken {
    Base64,
    Json,
}

fn object(part: &str) -> Result<Map<String, Value>, Broken> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_broken| Broken::Base64)?;
    serde_json::from_slice(&bytes).map_err(|_broken| Broken::Json)
}

fn map(object: &Map<String, Value>) -> BTreeMap<ArcStr, Claim> {
    object.iter().map(|(name, value)| (name.into(), claim(value))).collect()
}

fn claim(value: &Value) -> Claim {
    match value {
        Value::String(text) => Claim::Text(text.into()),
        Value::Array(all) => Claim::List(all.iter().map(claim).collect()),
        Value::Object(object) => Claim::Map(map(object)),
        Value::Null | Value::Bool(_) | Value::Number(_) => Claim::Other(value.to_string().into()),
    }
}
