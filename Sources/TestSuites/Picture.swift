import CZlib
import FarmModel

/// A picture of pixels with 8 bits for each of red, green, blue and opacity; PNG in and out (ISO/IEC 15948).
package struct Picture: Sendable {
    package var width: Int
    package var height: Int
    /// Four bytes for each pixel, row by row.
    package var pixels: [UInt8]

    package init(width: Int, height: Int, pixels: [UInt8]) {
        self.width = width
        self.height = height
        self.pixels = pixels
    }

    private static let signature: [UInt8] = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]
    /// A larger one is no test's result.
    private static let mostPixels = 1 << 27

    /// Reads a PNG file that is not interlaced; throws `picture.invalid`.
    package init(png bytes: [UInt8], source: String) throws {
        func invalid(_ reason: String) -> FarmError {
            FarmError("picture.invalid", .invalid, "\(source) is no PNG file that is read here: \(reason)")
        }
        guard bytes.starts(with: Picture.signature) else { throw invalid("it does not begin as one") }
        var place = 8
        var (packed, palette, opacity): ([UInt8], [UInt8], [UInt8]) = ([], [], [])
        var head: [UInt8] = []
        while place + 12 <= bytes.count {
            let length = Int(Picture.number(bytes, place))
            guard length <= bytes.count - place - 12 else { throw invalid("it is cut short") }
            let body = bytes[place + 8..<place + 8 + length]
            switch String(decoding: bytes[place + 4..<place + 8], as: UTF8.self) {
            case "IHDR": head = Array(body)
            case "PLTE": palette = Array(body)
            case "tRNS": opacity = Array(body)
            case "IDAT": packed += body
            default: break
            }
            place += 12 + length
        }
        guard head.count == 13 else { throw invalid("it has no head") }
        let (width, height) = (Int(Picture.number(head, 0)), Int(Picture.number(head, 4)))
        let (depth, kind) = (Int(head[8]), head[9])
        guard width > 0, height > 0, width.multipliedReportingOverflow(by: height).partialValue <= Picture.mostPixels, width < 1 << 20
        else {
            throw invalid("it is \(width) x \(height) pixels")
        }
        let channels: [UInt8: Int] = [0: 1, 2: 3, 3: 1, 4: 2, 6: 4]
        guard let count = channels[kind], depth == 8 || depth == 16 && kind != 3 || [0, 3].contains(kind) && [1, 2, 4].contains(depth)
        else {
            throw invalid("its pixels are of kind \(kind) with \(depth) bits")
        }
        guard head[12] == 0 else { throw invalid("it is interlaced") }
        let stride = (width * count * depth + 7) / 8
        let rows = try Unzip.gzip(packed, most: height * (stride + 1) + (1 << 16), source: source)
        guard rows.count >= height * (stride + 1) else { throw invalid("rows are missing") }
        let plain =
            try Picture.unfiltered(rows, height: height, stride: stride, step: max(1, count * depth / 8))
            ?? { throw invalid("a filter is not known") }()
        var pixels = [UInt8](repeating: 255, count: width * height * 4)
        func sample(_ row: Int, _ index: Int) -> UInt8 {
            let start = row * stride
            switch depth {
            case 8: return plain[start + index]
            case 16: return plain[start + 2 * index]
            default:
                let bit = index * depth
                let value = plain[start + bit / 8] >> UInt8(8 - depth - bit % 8) & UInt8((1 << depth) - 1)
                return kind == 3 ? value : UInt8(Int(value) * 255 / ((1 << depth) - 1))
            }
        }
        for row in 0..<height {
            for column in 0..<width {
                let at = (row * width + column) * 4
                switch kind {
                case 3:
                    let index = Int(sample(row, column))
                    guard index * 3 + 2 < palette.count else { throw invalid("a colour is not in its palette") }
                    for channel in 0..<3 { pixels[at + channel] = palette[index * 3 + channel] }
                    if index < opacity.count { pixels[at + 3] = opacity[index] }
                case 0, 4:
                    for channel in 0..<3 { pixels[at + channel] = sample(row, column * count) }
                    if kind == 4 { pixels[at + 3] = sample(row, column * 2 + 1) }
                default:
                    for channel in 0..<count { pixels[at + channel] = sample(row, column * count + channel) }
                }
            }
        }
        self.init(width: width, height: height, pixels: pixels)
    }

    private static func number(_ bytes: [UInt8], _ place: Int) -> UInt32 {
        bytes[place..<place + 4].reduce(0) { $0 << 8 | UInt32($1) }
    }

    /// Rows without their filters (section 9 of the standard); `nil` for a filter that there is not.
    private static func unfiltered(_ rows: [UInt8], height: Int, stride: Int, step: Int) throws -> [UInt8]? {
        var plain = [UInt8](repeating: 0, count: height * stride)
        for row in 0..<height {
            let filter = rows[row * (stride + 1)]
            guard filter <= 4 else { return nil }
            for index in 0..<stride {
                let left = index >= step ? Int(plain[row * stride + index - step]) : 0
                let above = row > 0 ? Int(plain[(row - 1) * stride + index]) : 0
                let corner = row > 0 && index >= step ? Int(plain[(row - 1) * stride + index - step]) : 0
                let base: Int
                switch filter {
                case 1: base = left
                case 2: base = above
                case 3: base = (left + above) / 2
                case 4:
                    let guess = left + above - corner
                    let (a, b, c) = (abs(guess - left), abs(guess - above), abs(guess - corner))
                    base = a <= b && a <= c ? left : b <= c ? above : corner
                default: base = 0
                }
                plain[row * stride + index] = rows[row * (stride + 1) + 1 + index] &+ UInt8(truncatingIfNeeded: base)
            }
        }
        return plain
    }

    /// The picture as a PNG file.
    package var png: [UInt8] {
        var rows: [UInt8] = []
        rows.reserveCapacity(height * (width * 4 + 1))
        for row in 0..<height {
            rows.append(0)
            rows += pixels[row * width * 4..<(row + 1) * width * 4]
        }
        var length = compressBound(UInt(rows.count))
        var packed = [UInt8](repeating: 0, count: Int(length))
        compress2(&packed, &length, rows, UInt(rows.count), 6)
        func big(_ value: Int) -> [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: value >> (24 - 8 * $0)) } }
        func part(_ name: String, _ body: [UInt8]) -> [UInt8] {
            let named = Array(name.utf8) + body
            return big(body.count) + named + big(Int(crc32(0, named, UInt32(named.count))))
        }
        return Picture.signature + part("IHDR", big(width) + big(height) + [8, 6, 0, 0, 0]) + part("IDAT", Array(packed[..<Int(length)]))
            + part("IEND", [])
    }

    /// The root of the mean squared difference over all channels, where 1 is a channel's whole range; `nil` for pictures of unequal sizes.
    package func difference(from other: Picture) -> Double? {
        guard width == other.width, height == other.height else { return nil }
        var sum = 0.0
        for (one, two) in zip(pixels, other.pixels) {
            let difference = Double(one) - Double(two)
            sum += difference * difference
        }
        return (sum / Double(max(1, pixels.count))).squareRoot() / 255
    }

    /// How many pixels differ from the one in the corner: nothing was drawn where none does.
    package var drawn: Int {
        let first = Array(pixels.prefix(3))
        return stride(from: 0, to: pixels.count, by: 4).count {
            pixels[$0] != first[0] || pixels[$0 + 1] != first[1] || pixels[$0 + 2] != first[2]
        }
    }

    /// A screen's content as Xvfb writes it: a window dump (XWDFile.h, version 7) of 32 bits a pixel; `nil` for anything else.
    package init?(windowDump bytes: [UInt8]) {
        guard bytes.count > 100 else { return nil }
        let fields = (0..<25).map { Int(Picture.number(bytes, 4 * $0)) }
        let (head, version, width, height, order, bits, line, colours) = (
            fields[0], fields[1], fields[4], fields[5], fields[7], fields[11], fields[12], fields[19]
        )
        let start = head + colours * 12
        guard version == 7, bits == 32, width > 0, height > 0, width < 1 << 15, height < 1 << 15, line >= 4 * width, head < 1 << 16,
            colours < 1 << 16, bytes.count >= start + line * height
        else { return nil }
        var pixels = [UInt8](repeating: 255, count: width * height * 4)
        for row in 0..<height {
            for column in 0..<width {
                let from = start + row * line + column * 4
                let at = (row * width + column) * 4
                // The least significant byte, which is blue, comes first or last.
                for channel in 0..<3 { pixels[at + channel] = bytes[from + (order == 0 ? 2 - channel : 1 + channel)] }
            }
        }
        self.init(width: width, height: height, pixels: pixels)
    }
}
