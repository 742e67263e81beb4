//! The router, with the list of its paths: what the router takes, the tests of who may call what
//! walk through.

use axum::Router;
use axum::routing::MethodRouter;

use super::ApiState;

/// Routes, and what their paths are.
#[derive(Default)]
pub(super) struct Routes {
    pub(super) router: Router<ApiState>,
    pub(super) paths: Vec<String>,
}

impl Routes {
    /// A route.
    pub(super) fn route(mut self, path: &str, methods: MethodRouter<ApiState>) -> Self {
        self.router = self.router.route(path, methods);
        self.paths.push(path.to_owned());
        self
    }

    /// A route with and without the slash at its end.
    pub(super) fn both(self, path: &str, methods: MethodRouter<ApiState>) -> Self {
        self.route(path, methods.clone()).route(path.trim_end_matches('/'), methods)
    }

    /// The routes of both.
    pub(super) fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.paths.extend(other.paths);
        self
    }
}
