//! Recordings in S3, or in anything that speaks like it.

use std::error::Error;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_types::service_config::ServiceConfigKey;
use chrono::{DateTime, Utc};
use tokio::sync::OnceCell;

use super::{PlaceError, SettingError, is_plain};

/// Signing needs no answer from S3, but may have to ask for credentials: a read must not hang.
const SIGN_TIMEOUT: Duration = Duration::from_secs(5);

/// For a question to S3, retries included.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// A bucket, or what lies below a prefix of it.
pub(super) struct Bucket {
    name: String,
    /// Without slashes at its ends; may be empty.
    prefix: String,
}

impl Bucket {
    /// `rest` is what follows `s3://`.
    pub(super) fn parse(rest: &str) -> Result<Self, SettingError> {
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/');
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if name.is_empty() || !name.chars().all(is_name) {
            return Err(SettingError(format!(
                "`s3://{rest}` names no bucket: write s3://bucket or s3://bucket/prefix"
            )));
        }
        if !prefix.is_empty() && !is_plain(prefix) {
            return Err(SettingError(format!(
                "the prefix of `s3://{rest}` must not hold empty parts, `.` or `..`"
            )));
        }
        Ok(Self { name: name.to_owned(), prefix: prefix.to_owned() })
    }

    pub(super) fn url(&self) -> String {
        match self.prefix.as_str() {
            "" => format!("s3://{}", self.name),
            prefix => format!("s3://{}/{prefix}", self.name),
        }
    }

    /// The object's key, if the URL names an object below the prefix.
    pub(super) fn key_of<'a>(&self, url: &'a str) -> Option<&'a str> {
        let (bucket, key) = url.strip_prefix("s3://")?.split_once('/')?;
        let is_below = self.prefix.is_empty()
            || key.strip_prefix(&self.prefix).is_some_and(|rest| rest.starts_with('/'));
        (bucket == self.name && is_below && is_plain(key)).then_some(key)
    }

    fn unavailable(&self, reason: impl Into<String>) -> PlaceError {
        PlaceError::Unavailable { place: self.url(), reason: reason.into() }
    }
}

/// The client for all buckets, made when it is first needed: it is slow to make, and many
/// installations have no bucket.
pub(super) struct S3 {
    client: OnceCell<Client>,
    lifetime: Duration,
}

impl S3 {
    pub(super) fn new(lifetime: Duration) -> Self {
        Self { client: OnceCell::new(), lifetime }
    }

    #[cfg(test)]
    pub(super) fn with_client(client: Client, lifetime: Duration) -> Self {
        Self { client: OnceCell::new_with(Some(client)), lifetime }
    }

    pub(super) async fn presign(
        &self,
        bucket: &Bucket,
        key: &str,
        content_type: &str,
        now: DateTime<Utc>,
    ) -> Result<String, PlaceError> {
        let terms = PresigningConfig::builder()
            .start_time(SystemTime::from(now))
            .expires_in(self.lifetime)
            .build()
            .map_err(|error| bucket.unavailable(error.to_string()))?;
        let signing = async {
            let request = self.client().await.get_object().bucket(&bucket.name).key(key);
            request.response_content_type(content_type).presigned(terms).await
        };
        match tokio::time::timeout(SIGN_TIMEOUT, signing).await {
            Ok(Ok(request)) => Ok(request.uri().to_owned()),
            Ok(Err(error)) => Err(bucket.unavailable(with_causes(&error))),
            Err(_) => Err(bucket.unavailable("no credentials were found in time")),
        }
    }

    /// The object's size; `None` if it is not there.
    pub(super) async fn size(&self, bucket: &Bucket, key: &str) -> Result<Option<u64>, PlaceError> {
        let request = self.client().await.head_object().bucket(&bucket.name).key(key);
        match request.send().await {
            Ok(object) => {
                Ok(Some(object.content_length().and_then(|n| n.try_into().ok()).unwrap_or(0)))
            }
            Err(SdkError::ServiceError(answer)) if answer.err().is_not_found() => Ok(None),
            Err(SdkError::ServiceError(answer)) if answer.raw().status().as_u16() == 403 => {
                // Without the right to list, S3 says 403 for what is not there, too.
                Err(bucket.unavailable("we may not read it (s3:GetObject and s3:ListBucket)"))
            }
            Err(error) => Err(bucket.unavailable(with_causes(&error))),
        }
    }

    /// Deletes the object. S3 says the same of one that is not there.
    pub(super) async fn delete(&self, bucket: &Bucket, key: &str) -> Result<(), PlaceError> {
        let request = self.client().await.delete_object().bucket(&bucket.name).key(key);
        match request.send().await {
            Ok(_) => Ok(()),
            Err(SdkError::ServiceError(answer)) if answer.raw().status().as_u16() == 403 => {
                Err(bucket.unavailable("we may not delete in it (s3:DeleteObject)"))
            }
            Err(error) => Err(bucket.unavailable(with_causes(&error))),
        }
    }

    pub(super) async fn check(&self, bucket: &Bucket) -> Result<(), PlaceError> {
        match self.client().await.head_bucket().bucket(&bucket.name).send().await {
            Ok(_) => Ok(()),
            Err(SdkError::ServiceError(answer)) => match answer.raw().status().as_u16() {
                404 => Err(bucket.unavailable("there is no such bucket")),
                403 => Err(bucket.unavailable("we may not see the bucket (s3:ListBucket)")),
                status => Err(bucket.unavailable(format!("it answered {status}"))),
            },
            Err(error) => Err(bucket.unavailable(with_causes(&error))),
        }
    }

    async fn client(&self) -> &Client {
        self.client.get_or_init(connect).await
    }
}

/// Makes a client of the ordinary `AWS_*` variables and files.
async fn connect() -> Client {
    // The loader finds the region by itself: a region provider that is made here would have no
    // HTTP client to ask Amazon's metadata service with, and panic.
    let mut config = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(https())
        .timeout_config(TimeoutConfig::builder().operation_timeout(ASK_TIMEOUT).build())
        .load()
        .await;
    if config.region().is_none() {
        config = config.into_builder().region(Region::new("us-east-1")).build();
    }
    Client::from_conf(s3_config(&config).build())
}

/// What went wrong, and what made it so: the SDK's outermost error alone says nothing.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// The project's one TLS stack.
pub(super) fn https() -> aws_sdk_s3::config::SharedHttpClient {
    aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https()
}

/// Other servers than Amazon's seldom have a host name for each bucket, and know the newer
/// checksums as little.
pub(super) fn s3_config(config: &SdkConfig) -> aws_sdk_s3::config::Builder {
    aws_sdk_s3::config::Builder::from(config)
        .force_path_style(has_own_endpoint(config))
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
}

/// `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL` or `endpoint_url` of a profile.
fn has_own_endpoint(config: &SdkConfig) -> bool {
    let key = ServiceConfigKey::builder()
        .service_id("S3")
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build()
        .expect("all parts are given");
    let own = config.service_config().and_then(|service| service.load_config(key));
    own.is_some() || config.endpoint_url().is_some()
}
