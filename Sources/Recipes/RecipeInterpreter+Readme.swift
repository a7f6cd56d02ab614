import FarmModel
import TemplateEngine

extension RecipeInterpreter {
    /// The README: `readme`, else README.md, else from `structured_readme`, else a mark that names `readme_url`.
    func readme() throws -> String {
        var text = recipe.readme ?? ""
        if text.trimmingSpace.isEmpty, let bytes = source.files["README.md"] { text = String(decoding: bytes, as: UTF8.self) }
        text = try rendered(text: text, 1)
        if text.trimmingSpace.isEmpty { text = try structured() }
        // Rendering reaches no network: whoever publishes may put the page there.
        if text.trimmingSpace.isEmpty, let url = recipe.readmeURL {
            text = "See \(try rendered(text: url, 1)) (not fetched when this was rendered)"
        }
        return text.trimmingEnd
    }

    /// What `structured_readme` asks to cite.
    func citation() throws -> String {
        guard let node = recipe.structuredReadme, case .mapping(let values) = try rendered(node), let text = values["citation"], text.isTrue
        else { return "" }
        return text.printed.trimmingSpace
    }

    private func structured() throws -> String {
        guard let node = recipe.structuredReadme, case .mapping(let values) = try rendered(node) else { return "" }
        func field(_ key: String) -> String { values[key].map { $0.isTrue ? $0.printed.trimmingSpace : "" } ?? "" }
        let (description, example) = (field("description"), field("example"))
        let (documentation, citation) = (field("documentation"), field("citation"))
        guard [description, example, documentation, citation].contains(where: { !$0.isEmpty }) else { return "" }
        let rule = String(repeating: "-", count: 34)
        var sections = [rule, "## \(settings.variant.name)/\(definition.version) ##"]
        if !description.isEmpty { sections.append(description) }
        if !example.isEmpty { sections.append("Example:\n```\n\(example)\n```") }
        if !documentation.isEmpty { sections.append("More documentation can be found here: \(documentation)") }
        if !citation.isEmpty { sections.append("Citation:\n```\n\(citation)\n```") }
        sections.append("To run container outside of this environment: ml \(settings.variant.name)/\(definition.version)")
        return (sections + [rule]).joined(separator: "\n\n")
    }
}
