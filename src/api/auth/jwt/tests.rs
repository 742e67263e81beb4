use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt as _;
use jsonwebtoken::{EncodingKey, encode};
use serde_json::json;

use super::*;

const SECRET: &str = "a secret that only the issuer and we know";
const NOW_S: i64 = 1_780_000_000;

macro_rules! key {
    ($name:literal) => {
        include_bytes!(concat!("../../../../tests/fixtures/jwt/", $name, ".pem"))
    };
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(NOW_S, 0).unwrap()
}

fn with_secret() -> Authenticator {
    Authenticator::new(Some(SECRET), None).unwrap()
}

fn with_public_key(pem: &[u8]) -> Authenticator {
    Authenticator::new(None, Some(pem)).unwrap()
}

fn signed(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    encode(&Header::new(Algorithm::HS256), claims, &key).unwrap()
}

/// Without published keys nothing is waited for.
fn ask(authenticator: &Authenticator, token: &str) -> Result<Viewer, &'static str> {
    authenticator.viewer(token, now()).now_or_never().unwrap()
}

fn read(claims: &Value) -> Result<Viewer, &'static str> {
    ask(&with_secret(), &signed(claims))
}

#[test]
fn the_owner_is_user_id_or_else_the_subject_as_a_number_or_as_digits() {
    let exp = NOW_S + 60;
    let seven = Ok(Viewer { user: 7, is_staff: false });
    assert_eq!(read(&json!({"exp": exp, "user_id": 7})), seven);
    assert_eq!(read(&json!({"exp": exp, "user_id": "7"})), seven);
    assert_eq!(read(&json!({"exp": exp, "sub": 7})), seven);
    assert_eq!(read(&json!({"exp": exp, "sub": "7"})), seven);
    assert_eq!(read(&json!({"exp": exp, "user_id": 7, "sub": "8"})), seven);
    assert_eq!(read(&json!({"exp": exp, "user_id": null, "sub": "7"})), seven);
}

#[test]
fn a_token_without_a_readable_owner_is_refused() {
    let users = [
        json!("alice"),
        json!(""),
        json!("7a"),
        json!("+7"),
        json!("0x7"),
        json!(7.0),
        json!(true),
        json!([7]),
        json!("9223372036854775808"),
        json!(u64::MAX),
    ];
    for user in users {
        let claims = json!({"exp": NOW_S + 60, "user_id": user, "sub": "7"});
        assert_eq!(read(&claims), Err(NOBODY), "{claims}");
    }
    assert_eq!(read(&json!({"exp": NOW_S + 60})), Err(NOBODY));
}

#[test]
fn only_true_makes_staff() {
    let is_staff = |value: Value| {
        let claims = json!({"exp": NOW_S + 60, "user_id": 7, "is_staff": value});
        read(&claims).unwrap().is_staff
    };
    assert!(is_staff(json!(true)));
    for value in [json!("true"), json!(1), json!(false), json!(null), json!([true])] {
        assert!(!is_staff(value.clone()), "{value}");
    }
}

#[test]
fn a_token_works_until_thirty_seconds_after_its_expiry() {
    assert!(read(&json!({"exp": NOW_S - 29, "user_id": 7})).is_ok());
    assert_eq!(read(&json!({"exp": NOW_S - 30, "user_id": 7})), Err(EXPIRED));
    assert!(read(&json!({"exp": 1_780_000_000.5, "user_id": 7})).is_ok());
}

#[test]
fn a_token_without_a_readable_expiry_is_refused() {
    for claims in [json!({"user_id": 7}), json!({"exp": "1790000000", "user_id": 7})] {
        assert_eq!(read(&claims), Err(BAD_TOKEN), "{claims}");
    }
}

#[test]
fn a_token_of_the_future_is_refused_beyond_the_leeway() {
    assert!(read(&json!({"exp": NOW_S + 99, "nbf": NOW_S + 30, "user_id": 7})).is_ok());
    let claims = json!({"exp": NOW_S + 99, "nbf": NOW_S + 31, "user_id": 7});
    assert_eq!(read(&claims), Err(BAD_TOKEN));
}

#[test]
fn tokens_for_other_uses_are_refused() {
    let exp = NOW_S + 60;
    assert!(read(&json!({"exp": exp, "user_id": 7, "token_type": "access"})).is_ok());
    let refresh = json!({"exp": exp, "user_id": 7, "token_type": "refresh"});
    assert_eq!(read(&refresh), Err(BAD_TOKEN));
    let elsewhere = json!({"exp": exp, "user_id": 7, "aud": "another service"});
    assert_eq!(read(&elsewhere), Err(BAD_TOKEN));
}

#[test]
fn a_changed_token_is_refused() {
    let token = signed(&json!({"exp": NOW_S + 60, "user_id": 7}));
    let (head, signature) = token.rsplit_once('.').unwrap();
    let other = signed(&json!({"exp": NOW_S + 60, "user_id": 8}));
    let (other_head, _) = other.rsplit_once('.').unwrap();
    for token in [format!("{other_head}.{signature}"), format!("{head}."), head.to_owned()] {
        assert_eq!(ask(&with_secret(), &token), Err(BAD_TOKEN), "{token}");
    }
    let stranger = Authenticator::new(Some("another secret"), None).unwrap();
    assert_eq!(ask(&stranger, &token), Err(BAD_TOKEN));
}

#[test]
fn a_token_that_says_it_needs_no_signature_is_refused() {
    let claims = URL_SAFE_NO_PAD.encode(json!({"exp": NOW_S + 60, "user_id": 7}).to_string());
    for algorithm in ["none", "None", "NONE", ""] {
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": algorithm, "typ": "JWT"}).to_string());
        let token = format!("{header}.{claims}.");
        assert_eq!(ask(&with_secret(), &token), Err(BAD_TOKEN), "{algorithm}");
    }
}

#[test]
fn the_key_decides_the_algorithm_and_not_the_token() {
    let claims = json!({"exp": NOW_S + 60, "user_id": 7});
    // The well-known trick: the public key, which is no secret, as an HS256 secret.
    let forged = encode(
        &Header::new(Algorithm::HS256),
        &claims,
        &EncodingKey::from_secret(key!("rsa.public")),
    )
    .unwrap();
    assert_eq!(ask(&with_public_key(key!("rsa.public")), &forged), Err(BAD_TOKEN));
    let rsa = EncodingKey::from_rsa_pem(key!("rsa.private")).unwrap();
    let rs512 = encode(&Header::new(Algorithm::RS512), &claims, &rsa).unwrap();
    assert_eq!(ask(&with_public_key(key!("rsa.public")), &rs512), Err(BAD_TOKEN));
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    let hs512 = encode(&Header::new(Algorithm::HS512), &claims, &secret).unwrap();
    assert_eq!(ask(&with_secret(), &hs512), Err(BAD_TOKEN));
}

#[test]
fn each_kind_of_public_key_verifies_its_own_tokens() {
    let kinds: [(Algorithm, EncodingKey, &[u8]); 3] = [
        (
            Algorithm::RS256,
            EncodingKey::from_rsa_pem(key!("rsa.private")).unwrap(),
            key!("rsa.public"),
        ),
        (
            Algorithm::ES256,
            EncodingKey::from_ec_pem(key!("p256.private")).unwrap(),
            key!("p256.public"),
        ),
        (
            Algorithm::EdDSA,
            EncodingKey::from_ed_pem(key!("ed25519.private")).unwrap(),
            key!("ed25519.public"),
        ),
    ];
    let claims = json!({"exp": NOW_S + 60, "user_id": 7});
    for (algorithm, private, public) in &kinds {
        let token = encode(&Header::new(*algorithm), &claims, private).unwrap();
        for (other, _, other_public) in &kinds {
            let result = ask(&with_public_key(other_public), &token);
            assert_eq!(result.is_ok(), algorithm == other, "{algorithm:?} by {other:?}");
        }
        let both = Authenticator::new(Some(SECRET), Some(public)).unwrap();
        assert!(ask(&both, &token).is_ok());
        assert!(ask(&both, &signed(&claims)).is_ok());
    }
}

#[test]
fn a_key_that_cannot_verify_stops_the_start() {
    let refused = |secret, pem| Authenticator::new(secret, pem).err();
    assert_eq!(refused(Some(""), None), Some(KeyError::EmptySecret));
    let pems: [&[u8]; 4] = [b"", b"no key", key!("rsa.private"), key!("p384.public")];
    for pem in pems {
        assert_eq!(refused(None, Some(pem)), Some(KeyError::NoPublicKey));
    }
}

#[test]
fn without_keys_every_token_is_refused() {
    let token = signed(&json!({"exp": NOW_S + 60, "user_id": 7}));
    assert_eq!(ask(&Authenticator::default(), &token), Err(BAD_TOKEN));
    assert_eq!(ask(&Authenticator::default(), ""), Err(BAD_TOKEN));
}
