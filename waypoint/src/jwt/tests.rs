// SPDX-License-Identifier: Apache-2.0
//! Tokens that hold, and all the ways in which they do not.

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeySize, PublicKeyComponents},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
        RSA_PSS_SHA256, RsaKeyPair,
    },
};
use serde_json::{Value, json};

use super::*;

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Three key pairs, and the set of their public halves.
struct Issuer {
    rsa: RsaKeyPair,
    curve: EcdsaKeyPair,
    edwards: Ed25519KeyPair,
}

impl Issuer {
    fn new() -> Self {
        Self {
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
            curve: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            edwards: Ed25519KeyPair::generate().unwrap(),
        }
    }

    fn set(&self) -> Value {
        let rsa = PublicKeyComponents::<Vec<u8>>::from(self.rsa.public_key());
        let point = self.curve.public_key().as_ref();
        json!({"keys": [
            {"kty": "RSA", "kid": "rsa", "use": "sig", "n": encode(rsa.n), "e": encode(rsa.e)},
            {"kty": "EC", "kid": "curve", "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..])},
            {"kty": "OKP", "kid": "edwards", "crv": "Ed25519", "x": encode(self.edwards.public_key())},
            {"kty": "oct", "kid": "secret", "k": encode("secret")},
        ]})
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let (message, random) = (signed.as_bytes(), SystemRandom::new());
        let rsa = |padding| {
            let mut signature = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(padding, &random, message, &mut signature).unwrap();
            signature
        };
        let signature = match header["alg"].as_str().unwrap() {
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "ES256" => self.curve.sign(&random, message).unwrap().as_ref().to_vec(),
            "EdDSA" => self.edwards.sign(message).as_ref().to_vec(),
            _ => Vec::new(),
        };
        format!("{signed}.{}", encode(signature))
    }
}

fn claims() -> Value {
    json!({"iss": "i", "sub": "s", "aud": ["https://web/"], "exp": 2000, "nbf": 1000, "n": 1})
}

/// What becomes of a token at the moment 1500.
fn judged(keys: &KeySet, text: &str) -> Result<(), &'static str> {
    let token = Token::parse(text).map_err(|invalid| invalid.0)?;
    token.holds_at(1500).map_err(|invalid| invalid.0)?;
    token.is_for(&["web".into()]).map_err(|invalid| invalid.0)?;
    keys.prove(&token).map_err(|unproven| match unproven {
        Unproven::UnknownKey => "unknown key",
        Unproven::Forged(invalid) => invalid.0,
    })
}

#[test]
fn every_kind_of_signature_holds_under_its_own_key_only() {
    let issuer = Issuer::new();
    let keys = KeySet::parse(issuer.set().to_string().as_bytes()).unwrap();
    assert_eq!(keys.len(), 3, "a secret is no key");
    for (algorithm, kid) in [("RS256", "rsa"), ("PS256", "rsa"), ("ES256", "curve"), ("EdDSA", "edwards")] {
        let signed = |kid: Option<&str>| {
            let header = match kid {
                Some(kid) => json!({"alg": algorithm, "kid": kid}),
                None => json!({"alg": algorithm}),
            };
            issuer.sign(&header, &claims())
        };
        assert_eq!(judged(&keys, &signed(Some(kid))), Ok(()), "{algorithm}");
        assert_eq!(judged(&keys, &signed(None)), Ok(()), "{algorithm} without kid");
        let others = ["rsa", "curve", "edwards"].into_iter().filter(|known| *known != kid);
        for other in others.chain(["moon", "secret"]) {
            assert_eq!(judged(&keys, &signed(Some(other))), Err("unknown key"), "{algorithm} {other}");
        }
        let theirs = KeySet::parse(Issuer::new().set().to_string().as_bytes()).unwrap();
        assert_eq!(judged(&theirs, &signed(Some(kid))), Err("Jwt verification fails"), "{algorithm}");
    }
}

#[test]
fn confusions_are_refused() {
    let issuer = Issuer::new();
    let set = issuer.set();
    let keys = KeySet::parse(set.to_string().as_bytes()).unwrap();
    let good = issuer.sign(&json!({"alg": "RS256", "kid": "rsa"}), &claims());
    let alg = |name: &str| issuer.sign(&json!({"alg": name, "kid": "rsa"}), &claims());
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        issuer.sign(&json!({"alg": "RS256", "kid": "rsa"}), &claims)
    };
    let payload = good.split('.').nth(1).unwrap();
    let other = encode(json!({"iss": "i", "sub": "admin", "aud": "web"}).to_string());
    let unsupported = "Jwt header [alg] is not supported";
    for (text, expected) in [
        (alg("none"), unsupported),
        (alg("None"), unsupported),
        (alg("HS256"), unsupported),
        (alg("RS257"), unsupported),
        (
            issuer.sign(&json!({"alg": "RS256", "crit": ["b64"], "b64": false}), &claims()),
            "Jwt header has extensions that are not supported",
        ),
        (with("exp", json!(1000)), "Jwt is expired"),
        (with("exp", json!("soon")), "Jwt payload [exp] field is not a positive number"),
        (with("exp", json!(-1)), "Jwt payload [exp] field is not a positive number"),
        (with("nbf", json!(1700)), "Jwt not yet valid"),
        (with("aud", json!("other")), "Audiences in Jwt are not allowed"),
        (with("aud", json!(null)), "Audiences in Jwt are not allowed"),
        (with("big", json!("x".repeat(token::LONGEST))), "Jwt is too long"),
        (good.replace(payload, &other), "Jwt verification fails"),
        (format!("{good}x"), "Jwt signature is an invalid Base64url encoded"),
        (
            good.rsplit_once('.').unwrap().0.to_owned(),
            "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
        ),
        (
            format!("{good}.x"),
            "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
        ),
        ("..".to_owned(), "Jwt header is an invalid JSON"),
        (format!("{}.", good.rsplit_once('.').unwrap().0), "Jwt verification fails"),
    ] {
        assert_eq!(judged(&keys, &text), Err(expected), "{}", text.get(..80).unwrap_or(&text));
    }
    assert_eq!(judged(&keys, &with("exp", json!(1450))), Ok(()), "clocks may be a minute apart");
    // A key that says how it signs does nothing else, and one for encryption nothing at all.
    for change in [json!({"alg": "PS256"}), json!({"use": "enc"})] {
        let mut bound = set.clone();
        for (name, value) in change.as_object().unwrap() {
            bound["keys"][0][name] = value.clone();
        }
        let bound = KeySet::parse(bound.to_string().as_bytes()).unwrap();
        assert_eq!(judged(&bound, &good), Err("unknown key"), "{change}");
    }
    for broken in ["", "[]", "{}", "{\"keys\": 1}"] {
        assert!(KeySet::parse(broken.as_bytes()).is_err(), "{broken}");
    }
}

fn rule(from: Vec<Location>) -> JwtRule {
    JwtRule {
        issuer: "i".into(),
        audiences: Vec::new(),
        keys: Keys::Inline("{}".into()),
        from,
        forward: false,
        payload_header: Some(HeaderName::from_static("x-payload")),
        claim_headers: vec![(HeaderName::from_static("x-n"), vec!["n".into()])],
        words: Vec::new(),
    }
}

fn head(uri: &str, fields: &[(&str, &str)]) -> request::Parts {
    let request =
        fields.iter().fold(http::Request::get(uri), |made, (name, value)| made.header(*name, *value));
    request.body(()).unwrap().into_parts().0
}

#[test]
fn tokens_are_found_in_their_places_and_taken_out_of_them() {
    let header = |prefix: &str| Location::Header { name: http::header::AUTHORIZATION, prefix: prefix.into() };
    let all = vec![header("Bearer "), Location::Param("access_token".into()), Location::Cookie("t".into())];
    let rule = rule(all);
    let texts = |head: &request::Parts| -> Vec<String> {
        locations::find(&[&rule, &rule], head).into_iter().map(|found| found.text).collect()
    };
    let mut request = head(
        "/p?a=1&access_token=two&b",
        &[("authorization", "bearer one"), ("cookie", "a=b; t=three"), ("x-n", "1")],
    );
    assert_eq!(texts(&request), ["one", "two", "three"]);
    assert_eq!(locations::without_params(&[&rule], &request.uri), "/p?a=1&b");
    for location in &rule.from {
        locations::remove(location, &mut request);
    }
    assert_eq!((texts(&request).len(), request.uri.to_string()), (0, "/p?a=1&b".to_owned()));
    assert_eq!(request.headers["cookie"], "a=b");
    for value in ["Basic one", "Bearer", "Bearer ", "one"] {
        assert_eq!(texts(&head("/", &[("authorization", value)])), Vec::<String>::new(), "{value}");
    }
    clean(&[&rule], &mut request);
    assert!(!request.headers.contains_key("x-n"), "only we say what a claim is");
}

#[test]
fn the_server_is_told_claims_as_texts() {
    let all = Token::parse(&format!(
        "{}.{}.",
        encode("{\"alg\":\"ES256\"}"),
        encode("{\"n\":7,\"a.b\":\"dotted\",\"a\":{\"c\":true,\"d\":[1]},\"z\":null}")
    ))
    .map(|token| Claims::new(token.claims(), &[]))
    .unwrap();
    let at = |path: &[&str]| {
        let path: Vec<arcstr::ArcStr> = path.iter().map(|name| (*name).into()).collect();
        let rule = JwtRule { claim_headers: vec![(HeaderName::from_static("x"), path)], ..rule(Vec::new()) };
        let mut request = head("/", &[]);
        tell(&rule, "payload", &all, &mut request);
        assert_eq!(request.headers["x-payload"], "payload");
        request.headers.get("x").map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(at(&["n"]).as_deref(), Some("7"));
    assert_eq!(at(&["a", "b"]).as_deref(), Some("dotted"));
    assert_eq!(at(&["a", "c"]).as_deref(), Some("true"));
    assert_eq!(at(&["a", "d"]), Some(encode("[1]")));
    assert_eq!(at(&["z"]), None);
    assert_eq!(at(&["moon"]), None);
}
