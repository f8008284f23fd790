// Frame to model input, and embedding to answers, as the contract of the export wants it. Not a medical device.

import Foundation

enum StudentError: Error { case noSuchSpacing(String), badFile(String) }

/// Reads heads.safetensors; of manifest.json `side` is the model's input side, `bicubic` the contract's interpolation,
/// `ageDrop` the `age_drop` of `answers`.
struct StudentReader {
    /// Gestational age in days, and the ends of its interval: nil without an `ageDrop`.
    struct Age { let days: Int, youngest: Int?, oldest: Int? }
    struct Entry: Decodable { let dtype: String, shape: [Int], data_offsets: [Int] }
    struct About: Decodable {
        let cosine_scale: Double
        let labels: [String]?
        let spacings_mm_per_px: [String]?
        let ages_days: [Int]?
    }
    struct Header: Decodable {
        let entries: [String: Entry], texts: [String: String]
        struct Key: CodingKey {
            let stringValue: String
            var intValue: Int? { nil }
            init?(stringValue: String) { self.stringValue = stringValue }
            init?(intValue: Int) { nil }
        }
        init(from decoder: Decoder) throws {
            let all = try decoder.container(keyedBy: Key.self)
            var found: [String: Entry] = [:], described: [String: String] = [:]
            for key in all.allKeys {
                if key.stringValue == "__metadata__" {
                    described = try all.decode([String: String].self, forKey: key)
                } else {
                    found[key.stringValue] = try all.decode(Entry.self, forKey: key)
                }
            }
            (entries, texts) = (found, described)
        }
    }

    static let top = 15  // the age is the median of the TOP most similar ages
    static let unit = 4_194_304.0  // 2 ^ 22, of Pillow's fixed-point weights
    let side: Int, bicubic: Bool, ageDrop: Double?, header: Header, numbers: Data

    init(heads: Data, side: Int, bicubic: Bool, ageDrop: Double?) throws {
        let bytes = [UInt8](heads)
        guard bytes.count > 8 else { throw StudentError.badFile("heads.safetensors is too short") }
        let length = (0..<8).reduce(UInt64(0)) { $0 | UInt64(bytes[$1]) << UInt64(8 * $1) }
        guard length <= bytes.count - 8 else { throw StudentError.badFile("heads.safetensors: truncated header") }
        let start = 8 + Int(length)
        header = try JSONDecoder().decode(Header.self, from: Data(bytes[8..<start]))
        numbers = Data(bytes[start...])
        (self.side, self.bicubic, self.ageDrop) = (side, bicubic, ageDrop)
        let end = header.entries.values.compactMap(\.data_offsets.last).max() ?? 0
        guard end <= numbers.count else { throw StudentError.badFile("heads.safetensors: truncated numbers") }
    }

    /// RGBA pixels of a frame, padded to a black square and resized exactly as in training: RGBA, side x side.
    func prepared(_ rgba: [UInt8], width: Int, height: Int) -> [UInt8] {
        let longer = max(width, height), left = (longer - width) / 2, top = (longer - height) / 2
        var square = [UInt8](repeating: 0, count: 4 * longer * longer)
        for y in 0..<height {
            let target = 4 * (longer * (top + y) + left), source = 4 * width * y
            square.replaceSubrange(target..<(target + 4 * width), with: rgba[source..<(source + 4 * width)])
        }
        let table = weights(from: longer)
        var narrow = [UInt8](repeating: 0, count: 4 * longer * side)
        pass(square, &narrow, table, lines: longer, from: (4 * longer, 4), to: (4 * side, 4))
        var done = [UInt8](repeating: 255, count: 4 * side * side)
        pass(narrow, &done, table, lines: side, from: (4, 4 * side), to: (4, 4 * side))
        return done
    }

    private func kernel(_ distance: Double) -> Double {
        let x = abs(distance)
        if !bicubic { return max(0, 1 - x) }
        if x < 1 { return (1.5 * x - 2.5) * x * x + 1 }
        return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0
    }

    /// For every target pixel the first source pixel and the whole-number weights from there on.
    private func weights(from size: Int) -> [(first: Int, own: [Double])] {
        let scale = Double(size) / Double(side), stretch = max(scale, 1), reach = (bicubic ? 2 : 1) * stretch
        return (0..<side).map { row in
            let centre = (Double(row) + 0.5) * scale
            let first = max(Int(centre - reach + 0.5), 0), last = min(Int(centre + reach + 0.5), size)
            let own = (first..<last).map { kernel((Double($0) - centre + 0.5) / stretch) }
            let sum = own.reduce(0, +)
            return (first, own.map { ($0 / sum * Self.unit + ($0 < 0 ? -0.5 : 0.5)).rounded(.towardZero) })
        }
    }

    private func pass(
        _ source: [UInt8], _ target: inout [UInt8], _ table: [(first: Int, own: [Double])], lines: Int,
        from: (line: Int, step: Int), to: (line: Int, step: Int)
    ) {
        for line in 0..<lines {
            for (row, entry) in table.enumerated() {
                for channel in 0..<3 {
                    var sum = Self.unit / 2, place = from.line * line + from.step * entry.first + channel
                    for weight in entry.own {
                        sum += weight * Double(source[place])
                        place += from.step
                    }
                    let value = min(max((sum / Self.unit).rounded(.down), 0), 255)
                    target[to.line * line + to.step * row + channel] = UInt8(value)
                }
            }
        }
    }

    /// Probabilities of a class head, label -> share.
    func classify(_ embedding: [Float], head: String) throws -> [String: Double] {
        let about = try about(head), labels = about.labels ?? []
        let logits = try product(head, first: 0, rows: labels.count, embedding.map(Double.init))
            .map { about.cosine_scale * $0 }
        let top = logits.max() ?? 0, odds = logits.map { exp($0 - top) }, sum = odds.reduce(0, +)
        return Dictionary(uniqueKeysWithValues: zip(labels, odds.map { $0 / sum }))
    }

    /// Gestational age of a head in a frame of width x height pixels; throws where the table lacks the spacing.
    func age(_ embedding: [Float], width: Int, height: Int, pixelSizeMm: Double) throws -> Age {
        let about = try about("ages")
        let spacing = String(format: "%.2f", Double(max(width, height)) / Double(side) * pixelSizeMm)
        guard let row = about.spacings_mm_per_px?.firstIndex(of: spacing), let first = about.ages_days?.first,
              let count = header.entries["ages"]?.shape[1], let rank = header.entries["ages_basis"]?.shape[0]
        else { throw StudentError.noSuchSpacing(spacing) }
        let coordinates = try product("ages_basis", first: 0, rows: rank, embedding.map(Double.init))
        let similarity = try product("ages", first: row * count, rows: count, coordinates)
            .map { about.cosine_scale * $0 }
        let order = similarity.indices.sorted { (-similarity[$0], $0) < (-similarity[$1], $1) }
        let best = order.prefix(Self.top).sorted()[Self.top / 2]
        guard let ageDrop else { return Age(days: first + best, youngest: nil, oldest: nil) }
        let near = similarity.indices.filter { similarity[$0] >= similarity[order[0]] - ageDrop } + [best]
        return Age(days: first + best, youngest: first + near.min()!, oldest: first + near.max()!)
    }

    private func about(_ head: String) throws -> About {
        guard let text = header.texts[head] else { throw StudentError.badFile("no head \(head)") }
        return try JSONDecoder().decode(About.self, from: Data(text.utf8))
    }

    /// Product of a stored matrix, from its row `first` on, with a vector.
    private func product(_ tensor: String, first: Int, rows: Int, _ vector: [Double]) throws -> [Double] {
        guard let entry = header.entries[tensor] else { throw StudentError.badFile("no tensor \(tensor)") }
        let half = entry.dtype == "F16", width = vector.count
        return numbers.withUnsafeBytes { raw in
            (0..<rows).map { row in
                (0..<width).reduce(0.0) { sum, i in
                    let place = (first + row) * width + i
                    let number = half
                        ? fromHalf(raw.loadUnaligned(fromByteOffset: entry.data_offsets[0] + 2 * place, as: UInt16.self))
                        : Double(raw.loadUnaligned(fromByteOffset: entry.data_offsets[0] + 4 * place, as: Float.self))
                    return sum + number * vector[i]
                }
            }
        }
    }

    private func fromHalf(_ bits: UInt16) -> Double {
        let exponent = Int(bits >> 10 & 31), fraction = Double(bits & 1023)
        let size = exponent == 0 ? fraction * pow(2, -24) : pow(2, Double(exponent - 15)) * (1 + fraction / 1024)
        return bits & 0x8000 == 0 ? size : -size
    }
}
