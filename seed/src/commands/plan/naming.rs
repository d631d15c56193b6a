//! Names that follow from a collection's name: those of its service and its routes.

use crate::topology;

/// Names the services of the collections `names`: by the same name if a topology allows it, else by a similar one.
pub(super) fn name_services(names: &[&str]) -> Vec<String> {
    let fits = |name: &str| topology::check_name(name).is_ok();
    let mut services = vec![String::new(); names.len()];
    // Collections whose own names fit keep them, wherever they stand.
    for own in [true, false] {
        for nth in (0..names.len()).filter(|nth| fits(names[*nth]) == own) {
            let base = if own { names[nth].to_owned() } else { name_near(names[nth]) };
            services[nth] =
                number(&base, |name| fits(name) && !services.iter().any(|other| topology::meet(other, name)));
        }
    }
    services
}

/// Returns a similar name: `blog-posts` for `blogPosts`, `service-2024-events` for `2024-events`, `monolith-service` for
/// `monolith`.
fn name_near(collection: &str) -> String {
    let mut name = dashed(collection);
    if !name.starts_with(|first: char| first.is_ascii_lowercase()) {
        name.insert_str(0, "service-");
    }
    let name = cut(&name, topology::NAME_LENGTH);
    if topology::check_name(name).is_ok() { name.to_owned() } else { format!("{name}-service") }
}

/// Returns `base`, or the first of `base-2`, `base-3`, … that is free.
pub(super) fn number(base: &str, is_free: impl Fn(&str) -> bool) -> String {
    const ROOM: usize = topology::NAME_LENGTH - "-999".len();
    let numbered = (2_u64..).map(|nth| format!("{}-{nth}", cut(base, ROOM)));
    let mut names = std::iter::once(cut(base, topology::NAME_LENGTH).to_owned()).chain(numbered);
    names.find(|name| is_free(name)).expect("there are more numbers than names")
}

/// Cuts an ASCII name to at most `most` characters.
fn cut(name: &str, most: usize) -> &str {
    name[..name.len().min(most)].trim_end_matches(['-', '_'])
}

/// Returns the likeliest singular of a word, as far as English plurals are regular.
pub(super) fn singular(word: &str) -> String {
    let hisses = ["sses", "shes", "ches", "xes"].iter().any(|end| word.to_lowercase().ends_with(end));
    match singulars(word) {
        mut many if hisses => many.swap_remove(1),
        mut many => many.swap_remove(0),
    }
}

/// Returns the possible singulars of a word, the likeliest first (`quiz` for `quizzes`, `dish` for `dishes`), and last the
/// word itself.
pub(super) fn singulars(word: &str) -> Vec<String> {
    let cuts = [("zzes", "z"), ("ies", "y"), ("people", "person"), ("children", "child"), ("s", ""), ("es", "")];
    let cut = |(end, one): &(&str, &str)| word.strip_suffix(end).map(|stem| format!("{stem}{one}"));
    cuts.iter().filter_map(cut).chain([word.to_owned()]).filter(|one| !one.is_empty()).collect()
}

/// Returns `createdBy` as `created-by`, for a route or a service.
pub(super) fn dashed(name: &str) -> String {
    let mut dashed = String::new();
    let mut before = ' ';
    for character in name.chars() {
        let is_known = character.is_ascii_alphanumeric();
        let begins_word = character.is_ascii_uppercase() && !before.is_ascii_uppercase();
        if (!is_known || begins_word) && !dashed.is_empty() && !dashed.ends_with('-') {
            dashed.push('-');
        }
        dashed.extend(is_known.then_some(character.to_ascii_lowercase()));
        before = character;
    }
    dashed.truncate(dashed.trim_end_matches('-').len());
    dashed
}

/// Splits `createdBy` into `created` and `by`, `candidateID` into `candidate` and `id`.
pub(super) fn words(name: &str) -> Vec<String> {
    dashed(name).split('-').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::topology::PLAN;

    #[test]
    fn each_service_has_a_name_that_a_topology_allows() {
        let [long, shouted] = ["a", "A"].map(|letter| letter.repeat(40));
        let named = [
            ("blogPosts", "blog-posts"),
            ("user_profiles", "user_profiles"),
            ("Products", "products-2"),
            ("products", "products"),
            ("order-items", "order-items"),
            ("orderItems", "order-items-2"),
            ("2024-events", "service-2024-events"),
            ("monolith", "monolith-service"),
            ("service", "service-service"),
            ("a.b~c", "a-b-c"),
            ("abc", "abc"),
            ("HTTPLogs", "httplogs"),
            ("_", "service-service-2"),
            (&long, &long[..32]),
            (&shouted, &format!("{}-2", &long[..28])),
        ];
        let services = name_services(&named.map(|(name, _)| name));
        let expected = named.map(|(name, service)| if name == "a.b~c" { "a-b-c-2" } else { service });
        assert_eq!(services, expected);
        let lines = services.iter().zip(3001..).map(|(name, port)| format!("{name} {port}\n"));
        assert!(topology::parse(Path::new(PLAN), &lines.collect::<String>()).is_ok());
    }

    #[test]
    fn plurals_have_singulars() {
        for (many, one) in [
            ("posts", "post"),
            ("categories", "category"),
            ("quizzes", "quiz"),
            ("dishes", "dish"),
            ("branches", "branch"),
            ("classes", "class"),
            ("boxes", "box"),
            ("houses", "house"),
            ("people", "person"),
            ("fish", "fish"),
            ("s", "s"),
        ] {
            assert_eq!(singular(many), one);
        }
        assert!(singulars("movies").contains(&"movie".to_owned()));
    }
}
