// SPDX-License-Identifier: Apache-2.0
//! Sets of public keys (JWKS, RFC 7517), and whether one of them made a signature.

use aws_lc_rs::{
    rsa::PublicKeyComponents,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
        RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
        RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
        UnparsedPublicKey,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::token::{Algorithm, Hash, Invalid, Token};

/// Keys of one issuer that are looked at.
const MOST: usize = 128;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
}

#[derive(Clone, Debug)]
struct Key {
    kid: Option<String>,
    algorithm: Option<Algorithm>,
    material: Material,
}

#[derive(Clone, Debug)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point, and the hash that goes with its curve.
    Curve {
        point: Vec<u8>,
        hash: Hash,
    },
    Ed25519(Vec<u8>),
}

/// Why a token cannot be checked, or does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unproven {
    /// No key is the one that it names: there may be newer ones.
    UnknownKey,
    /// It is forged.
    Forged(Invalid),
}

impl KeySet {
    /// Reads it. What is no public key for signatures is skipped: secrets above all.
    ///
    /// # Errors
    /// When it is no such set.
    pub fn parse(text: &[u8]) -> Result<Self, Invalid> {
        let set: Value =
            serde_json::from_slice(text).map_err(|_broken| Invalid("Jwks is an invalid JSON"))?;
        let keys =
            set.get("keys").and_then(Value::as_array).ok_or(Invalid("Jwks does not have [keys] field"))?;
        let keys = keys.iter().filter_map(Value::as_object).filter_map(Key::read).take(MOST);
        Ok(Self { keys: keys.collect() })
    }

    /// How many keys it has.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Checks who made a token. A key only checks what is signed in its own way.
    ///
    /// # Errors
    /// When none of these keys did.
    pub fn prove(&self, token: &Token<'_>) -> Result<(), Unproven> {
        let named = |key: &&Key| match (&token.kid, &key.kid) {
            (Some(wanted), Some(kid)) => wanted == kid,
            (None, _) | (_, None) => true,
        };
        let fits = |key: &&Key| key.algorithm.is_none_or(|algorithm| algorithm == token.algorithm);
        let mut known = false;
        for key in self.keys.iter().filter(named).filter(fits) {
            match key.material.made(token) {
                None => {}
                Some(true) => return Ok(()),
                Some(false) => known = true,
            }
        }
        if known {
            Err(Unproven::Forged(Invalid("Jwt verification fails")))
        } else {
            Err(Unproven::UnknownKey)
        }
    }
}

impl Key {
    fn read(object: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| object.get(name).and_then(Value::as_str);
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let algorithm = match text("alg") {
            Some(name) => Some(Algorithm::named(name)?),
            None => None,
        };
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?.trim_end_matches('=')).ok();
        let material = match text("kty")? {
            "RSA" => Material::Rsa { n: bytes("n")?, e: bytes("e")? },
            "EC" => {
                let (hash, length) = match text("crv")? {
                    "P-256" => (Hash::Sha256, 32),
                    "P-384" => (Hash::Sha384, 48),
                    "P-521" => (Hash::Sha512, 66),
                    _ => return None,
                };
                let (x, y) = (bytes("x")?, bytes("y")?);
                if x.len() != length || y.len() != length {
                    return None;
                }
                Material::Curve { point: [vec![4], x, y].concat(), hash }
            }
            "OKP" if text("crv") == Some("Ed25519") => Material::Ed25519(bytes("x")?),
            _ => return None,
        };
        Some(Self { kid: text("kid").map(str::to_owned), algorithm, material })
    }
}

impl Material {
    /// Whether it made a token's signature; nothing where it cannot make such ones.
    fn made(&self, token: &Token<'_>) -> Option<bool> {
        let message = token.signed.as_bytes();
        let signature = token.signature.as_slice();
        Some(match (self, token.algorithm) {
            (Self::Rsa { n, e }, Algorithm::Rs(hash)) => {
                let key = PublicKeyComponents { n, e };
                key.verify(pkcs1(hash), message, signature).is_ok()
            }
            (Self::Rsa { n, e }, Algorithm::Ps(hash)) => {
                let key = PublicKeyComponents { n, e };
                key.verify(pss(hash), message, signature).is_ok()
            }
            (Self::Curve { point, hash }, Algorithm::Es(asked)) if *hash == asked => {
                let algorithm = match hash {
                    Hash::Sha256 => &ECDSA_P256_SHA256_FIXED,
                    Hash::Sha384 => &ECDSA_P384_SHA384_FIXED,
                    Hash::Sha512 => &ECDSA_P521_SHA512_FIXED,
                };
                UnparsedPublicKey::new(algorithm, point).verify(message, signature).is_ok()
            }
            (Self::Ed25519(key), Algorithm::EdDsa) => {
                UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok()
            }
            (Self::Rsa { .. } | Self::Curve { .. } | Self::Ed25519(_), _) => return None,
        })
    }
}

fn pkcs1(hash: Hash) -> &'static RsaParameters {
    match hash {
        Hash::Sha256 => &RSA_PKCS1_2048_8192_SHA256,
        Hash::Sha384 => &RSA_PKCS1_2048_8192_SHA384,
        Hash::Sha512 => &RSA_PKCS1_2048_8192_SHA512,
    }
}

fn pss(hash: Hash) -> &'static RsaParameters {
    match hash {
        Hash::Sha256 => &RSA_PSS_2048_8192_SHA256,
        Hash::Sha384 => &RSA_PSS_2048_8192_SHA384,
        Hash::Sha512 => &RSA_PSS_2048_8192_SHA512,
    }
}
