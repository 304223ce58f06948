# Access that depends on data, one element of the result at a time. What an element needs of
# other arrays it is handed whole, in a `Ref`.

"Copy the window that lies `index * step` elements further on; `index` stays on the device."
struct MovingWindowBroadcast{O, P, M, I} <: Function
    out::O
    places::P
    memory::M
    index::I
    step::Int
    count::Int
end

function MovingWindowBroadcast(
        buffers, out::Window, from::Window, index::Window, step::Int, count::Int
    )
    memory = buffers[from.buffer]
    # Where each element is when the index is 0: the window, over the numbers of its elements.
    numbers = 0:(length(memory) - 1)
    to, places = arrays_of((buffers[out.buffer], numbers), (out, from))
    at = (index.offset + 1):(index.offset + 1)
    return MovingWindowBroadcast(to, places, memory, view(buffers[index.buffer], at), step, count)
end

@inline function moved(memory, place, index, step, count)
    check_index(index, count)
    return load(memory, place + index * step + 1)
end

function (k::MovingWindowBroadcast)()
    broadcast!(moved, k.out, Ref(k.memory), k.places, k.index, k.step, k.count)
    return nothing
end

"`out[i] = from[indices[i]]`."
struct TakeBroadcast{O, F, I} <: Function
    out::O
    from::F
    indices::I
end

TakeBroadcast(buffers, out::Window, from::Window, indices::Window) =
    TakeBroadcast(run_of(buffers, out), run_of(buffers, from), run_of(buffers, indices))

"A window without gaps as a vector."
run_of(buffers, w::Window) = view(buffers[w.buffer], (w.offset + 1):(w.offset + length(w)))

function (k::TakeBroadcast)()
    broadcast!(taken, k.out, Ref(k.from), length(k.from), k.indices)
    return nothing
end

"""
`out[indices[i]] = join(out[indices[i]], values[i])`, one after the other.

Each element of the result looks through all indices for its own: more work than a loop has,
but in a loop's order, so that sums are the same each time and the last of several values stays.
"""
struct PutBroadcast{F, O, I, V} <: Function
    join::F
    out::O
    indices::I
    values::V
end

PutBroadcast(join, buffers, out::Window, indices::Window, values::Window) =
    PutBroadcast(join, run_of(buffers, out), run_of(buffers, indices), run_of(buffers, values))

@inline function settled(join, old, place, available, indices, values)
    for i in eachindex(indices)
        index = load(indices, i)
        check_index(index, available)
        index == place || continue
        old = join(old, load(values, i))
    end
    return old
end

function (k::PutBroadcast)()
    n = length(k.out)
    broadcast!(settled, k.out, Ref(k.join), k.out, 0:(n - 1), n, Ref(k.indices), Ref(k.values))
    return nothing
end

"The place of each value among increasing edges."
struct SearchSortedBroadcast{O, V, E} <: Function
    out::O
    values::V
    edges::E
    right::Bool
end

SearchSortedBroadcast(buffers, out::Window, values::Window, edges::Window, right) =
    SearchSortedBroadcast(run_of(buffers, out), run_of(buffers, values), run_of(buffers, edges), right)

function (k::SearchSortedBroadcast)()
    broadcast!(place_among, k.out, k.values, Ref(k.edges), length(k.edges), k.right)
    return nothing
end
