//! A server that speaks S3 and checks every signature, over a folder: a real one, of others' making.

use std::sync::{Arc, Mutex};

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, SharedCredentialsProvider};
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::HttpError;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::service::Site;

/// The bucket that is there.
pub(crate) const BUCKET: &str = "calls";
const ACCESS_KEY: &str = "AKIDEXAMPLE";
const SECRET_KEY: &str = "a secret that only the bucket's owner knows";
const REGION: &str = "eu-central-1";

/// The server, with one bucket, until it is dropped.
pub(crate) struct Bucket {
    url: String,
    asked: Asked,
    _folder: TempDir,
    _serving: JoinSet<()>,
}

type Asked = Arc<Mutex<Vec<String>>>;

impl Bucket {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let mut service = S3ServiceBuilder::new(FileSystem::new(folder.path()).unwrap());
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Asked::default();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, service.build(), Arc::clone(&asked)));
        Self { url, asked, _folder: folder, _serving: serving }
    }

    /// Stores an object, as a recorder does.
    pub(crate) async fn put(&self, key: &str, content_type: &str, bytes: Vec<u8>) {
        let credentials = Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "test");
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new(REGION))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .endpoint_url(&self.url)
            .force_path_style(true)
            .build();
        let request = aws_sdk_s3::Client::from_conf(config).put_object().bucket(BUCKET).key(key);
        request.content_type(content_type).body(bytes.into()).send().await.unwrap();
    }

    /// The site with its recordings below a prefix of the bucket, all of it set as one does
    /// for a server of one's own.
    pub(crate) fn holds_recordings_of(&self, site: Site, prefix: &str) -> Site {
        site.with("FINALIZER_RECORDINGS", &format!("s3://{BUCKET}/{prefix}"))
            .with("AWS_ENDPOINT_URL_S3", &self.url)
            .with("AWS_REGION", REGION)
            .with("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .with("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    }

    /// Method, path and status of every request so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(listener: TcpListener, service: S3Service, asked: Asked) {
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let (service, asked) = (service.clone(), Arc::clone(&asked));
        let answer = service_fn(move |request: Request<Incoming>| {
            let (service, asked) = (service.clone(), Arc::clone(&asked));
            async move {
                let question = format!("{} {}", request.method(), request.uri().path());
                let answer = service.call(request.map(Into::into)).await?;
                asked.lock().unwrap().push(format!("{question} {}", answer.status().as_u16()));
                Ok::<_, HttpError>(answer)
            }
        });
        connections.spawn(async move {
            // A client that goes away is none of our business.
            drop(http1::Builder::new().serve_connection(TokioIo::new(socket), answer).await);
        });
    }
}
