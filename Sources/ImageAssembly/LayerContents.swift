import FarmModel

/// Reads what files of a merged tree hold, from whichever layer it lies in.
package struct LayerContents {
    private let layers: [any LayerArchive]

    /// Layers, bottom first, as the tree counts them.
    package init(layers: [any LayerArchive]) { self.layers = layers }

    /// Fills the buffer with a file's bytes from `position`; the file must have so many. Throws `layer.short`.
    func fill(_ buffer: UnsafeMutableRawBufferPointer, of content: EntryTree.Content, at position: Int64) throws {
        switch content {
        case .none: break
        case .bytes(let bytes):
            bytes.withUnsafeBytes {
                buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[Int(position)..<Int(position) + buffer.count]))
            }
        case .layer(let number, let file):
            if file.runs.count == 1, let only = file.runs.first, only.position == 0, only.count == file.size {
                return try layers[number].fill(buffer, at: only.offset + position)
            }
            buffer.initializeMemory(as: UInt8.self, repeating: 0)
            let end = position + Int64(buffer.count)
            // The first that may reach into the buffer.
            var (low, high) = (0, file.runs.count)
            while low < high {
                let middle = (low + high) / 2
                if file.runs[middle].position + file.runs[middle].count <= position { low = middle + 1 } else { high = middle }
            }
            for run in file.runs[low...].prefix(while: { $0.position < end }) {
                let from = max(run.position, position)
                let to = min(run.position + run.count, end)
                let part = UnsafeMutableRawBufferPointer(rebasing: buffer[Int(from - position)..<Int(to - position)])
                try layers[number].fill(part, at: run.offset + from - run.position)
            }
        }
    }

    /// At most the first `count` bytes of a file.
    package func head(of content: EntryTree.Content, _ count: Int64) throws -> [UInt8] {
        let count = Int(min(content.size, count))
        return try [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
            try fill(UnsafeMutableRawBufferPointer(buffer), of: content, at: 0)
            filled = count
        }
    }
}
