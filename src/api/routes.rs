//! The router, with what it takes described beside each route: the description is what `/openapi.json`
//! shows, and what the tests of who may call what walk through.

use axum::Router;
use axum::routing::MethodRouter;
use utoipa::openapi::path::Paths;
use utoipa::openapi::{RefOr, Schema};
use utoipa_axum::router::UtoipaMethodRouter;

use super::ApiState;

/// Routes, and what is said of them.
#[derive(Default)]
pub(super) struct Routes {
    pub(super) router: Router<ApiState>,
    /// Every path that the router knows.
    pub(super) paths: Vec<String>,
    /// What is said of each, by the path that ends with a slash.
    pub(super) described: Paths,
    /// The types that the descriptions name.
    pub(super) schemas: Vec<(String, RefOr<Schema>)>,
}

impl Routes {
    /// A route that is described.
    pub(super) fn route(mut self, methods: UtoipaMethodRouter<ApiState>) -> Self {
        let (path, methods) = self.describe(methods);
        self.add(&path, methods)
    }

    /// A route with and without the slash at its end.
    pub(super) fn both(mut self, methods: UtoipaMethodRouter<ApiState>) -> Self {
        let (path, methods) = self.describe(methods);
        self.add(&path, methods.clone()).add(path.trim_end_matches('/'), methods)
    }

    /// A route that is described, and that the router knows by another path: descriptions have no
    /// wildcards.
    pub(super) fn wild(mut self, path: &str, methods: UtoipaMethodRouter<ApiState>) -> Self {
        let (_, methods) = self.describe(methods);
        self.add(path, methods)
    }

    /// A route that is not described.
    pub(super) fn add(mut self, path: &str, methods: MethodRouter<ApiState>) -> Self {
        self.router = self.router.route(path, methods);
        self.paths.push(path.to_owned());
        self
    }

    /// The routes of both.
    pub(super) fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.paths.extend(other.paths);
        self.described.paths.extend(other.described.paths);
        self.schemas.extend(other.schemas);
        self
    }

    /// Keeps what is said of a route; its path, and its methods.
    fn describe(
        &mut self,
        (schemas, described, methods): UtoipaMethodRouter<ApiState>,
    ) -> (String, MethodRouter<ApiState>) {
        let path = described.paths.keys().next().cloned().expect("a route has a path");
        self.schemas.extend(schemas);
        self.described.paths.extend(described.paths);
        (path, methods)
    }
}
