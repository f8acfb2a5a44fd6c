//! Room of kanidm.
