//! Tests of services that are filled, signalled, damaged, copied and compared, and of the entrance before them.
//!
//! Tests that measure, fail a disk, deploy or run containers are separate programs, which Cargo runs one after the
//! other.

mod admin;
mod backup;
mod changes;
mod client;
mod compare;
mod compression;
mod damage;
mod declaration;
mod entrance;
mod jwt;
mod logs;
mod manual;
mod openapi;
mod pages;
mod replicas;
mod running;
mod service;
mod standing;
mod text_ids;
mod token;
mod topology;
