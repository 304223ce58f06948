# Small dense matrices: systems solved by elimination with partial pivoting, and factors.

"""
    Systems(buffers, out, a, b, transposed; factor_step)

Where the matrices of `A X = B` (or `A' X = B`) lie in their memory, for each of a batch of
row-major A (n, n) and B (n, k). `factor_step` is the distance between the work spaces of two
systems: 0 if they are solved one after the other.
"""
struct Systems
    n::Int
    k::Int
    batch::Int
    a::NTuple{4, Int}
    b::NTuple{4, Int}
    x::NTuple{4, Int}
    factor_step::Int
end

function Systems(out::Window, a::Window, b::Window, transposed; factor_step)
    n, k = b.shape[end - 1], b.shape[end]
    batched = length(a.shape) == 3
    # Offset, and the distance of systems, rows and columns.
    layout(w) = (w.offset, batched ? w.strides[1] : 0, w.strides[end - 1], w.strides[end])
    offset, step, down, across = layout(a)
    rows = transposed ? (offset, step, across, down) : (offset, step, down, across)
    count = batched ? a.shape[1] : 1
    return Systems(n, k, count, rows, layout(b), (out.offset, n * k, k, 1), factor_step)
end

"A matrix in memory of some kind; rows and columns count from 0."
struct Grid{M}
    memory::M
    offset::Int
    down::Int
    across::Int
end
Grid(memory, (offset, step, down, across)::NTuple{4, Int}, i) =
    Grid(memory, offset + i * step, down, across)

@inline cell(g::Grid, i, j) = load(g.memory, g.offset + i * g.down + j * g.across + 1)
@inline cell!(g::Grid, value, i, j) =
    store!(g.memory, value, g.offset + i * g.down + j * g.across + 1)

"""
    LinearSolve{T}

Solve [`Systems`](@ref) in memory that has an address.
"""
struct LinearSolve{T} <: Function
    systems::Systems
    x::Ptr{T}
    a::Ptr{T}
    b::Ptr{T}
    factors::Vector{T}
end

function LinearSolve(buffers, out::Window, a::Window, b::Window, transposed)
    systems = Systems(out, a, b, transposed; factor_step = 0)
    start(w) = pointer(buffers[w.buffer])
    factors = zeros(eltype(buffers[out.buffer]), systems.n^2)
    return LinearSolve(systems, start(out), start(a), start(b), factors)
end

function (s::LinearSolve)()
    for i in 0:(s.systems.batch - 1)
        solve_system!(s.x, s.a, s.b, s.factors, s.systems, i)
    end
    return nothing
end

"Solve the `i`th system, from 0."
function solve_system!(x_memory, a_memory, b_memory, factor_memory, systems, i)
    (; n, k) = systems
    x = Grid(x_memory, systems.x, i)
    a, b = Grid(a_memory, systems.a, i), Grid(b_memory, systems.b, i)
    factors = Grid(factor_memory, i * systems.factor_step, n, 1)
    for row in 0:(n - 1)
        for j in 0:(n - 1)
            cell!(factors, cell(a, row, j), row, j)
        end
        for j in 0:(k - 1)
            cell!(x, cell(b, row, j), row, j)
        end
    end
    for column in 0:(n - 1)
        pivot = column
        for row in (column + 1):(n - 1)
            abs(cell(factors, row, column)) > abs(cell(factors, pivot, column)) && (pivot = row)
        end
        if pivot != column
            exchange_rows!(factors, column, pivot, column, n)
            exchange_rows!(x, column, pivot, 0, k)
        end
        for row in (column + 1):(n - 1)
            factor = cell(factors, row, column) / cell(factors, column, column)
            subtract_row!(factors, row, column, factor, column + 1, n)
            subtract_row!(x, row, column, factor, 0, k)
        end
    end
    for row in (n - 1):-1:0, j in 0:(k - 1)
        value = cell(x, row, j)
        for l in (row + 1):(n - 1)
            value -= cell(factors, row, l) * cell(x, l, j)
        end
        cell!(x, value / cell(factors, row, row), row, j)
    end
    return nothing
end

"""
    Squares(out, a)

Where row-major matrices (n, n), and what is made of each of them, lie in their memory.
"""
struct Squares
    n::Int
    batch::Int
    a::NTuple{4, Int}
    out::NTuple{4, Int}
end

function Squares(out::Window, a::Window)
    rows, n = out.shape[end - 1], a.shape[end]
    batched = length(a.shape) == 3
    layout = (a.offset, batched ? a.strides[1] : 0, a.strides[end - 1], a.strides[end])
    return Squares(n, batched ? a.shape[1] : 1, layout, (out.offset, rows * n, n, 1))
end

"""
    Factorisation(factor!, buffers, out, a)

Factor each of [`Squares`](@ref) in memory that has an address.
"""
struct Factorisation{F, T} <: Function
    factor!::F
    squares::Squares
    out::Ptr{T}
    a::Ptr{T}
end

function Factorisation(factor!, buffers, out::Window, a::Window)
    start(w) = pointer(buffers[w.buffer])
    return Factorisation(factor!, Squares(out, a), start(out), start(a))
end

function (k::Factorisation)()
    for i in 0:(k.squares.batch - 1)
        k.factor!(k.out, k.a, k.squares, i)
    end
    return nothing
end

"""
    factor_lu!(out, a, squares, i)

The factors of `A[p, :] = L U` in one matrix, below it a row of pivots as LAPACK counts them
and a row with `p`, from 0.
"""
function factor_lu!(out_memory, a_memory, squares, i)
    n = squares.n
    out, a = Grid(out_memory, squares.out, i), Grid(a_memory, squares.a, i)
    for row in 0:(n - 1)
        for j in 0:(n - 1)
            cell!(out, cell(a, row, j), row, j)
        end
        cell!(out, oftype(cell(out, 0, 0), row), n + 1, row)
    end
    for column in 0:(n - 1)
        pivot = column
        for row in (column + 1):(n - 1)
            abs(cell(out, row, column)) > abs(cell(out, pivot, column)) && (pivot = row)
        end
        cell!(out, oftype(cell(out, 0, 0), pivot + 1), n, column)
        if pivot != column
            exchange_rows!(out, column, pivot, 0, n)
            kept, moved = cell(out, n + 1, column), cell(out, n + 1, pivot)
            cell!(out, moved, n + 1, column)
            cell!(out, kept, n + 1, pivot)
        end
        # Of a singular matrix the column is zero already, as LAPACK leaves it.
        iszero(cell(out, column, column)) && continue
        for row in (column + 1):(n - 1)
            factor = cell(out, row, column) / cell(out, column, column)
            cell!(out, factor, row, column)
            subtract_row!(out, row, column, factor, column + 1, n)
        end
    end
    return nothing
end

"""
    factor_cholesky!(out, a, squares, i)

`L` with `L L' = A`, read from `A`'s lower triangle; NaN where there is none.
"""
function factor_cholesky!(out_memory, a_memory, squares, i)
    n = squares.n
    out, a = Grid(out_memory, squares.out, i), Grid(a_memory, squares.a, i)
    for column in 0:(n - 1)
        for row in 0:(column - 1)
            cell!(out, zero(cell(a, row, column)), row, column)
        end
        for row in column:(n - 1)
            value = cell(a, row, column)
            for l in 0:(column - 1)
                value -= cell(out, row, l) * cell(out, column, l)
            end
            diagonal = row == column
            cell!(out, diagonal ? Scalars.sqrt(value) : value / cell(out, column, column), row, column)
        end
    end
    return nothing
end

@inline function exchange_rows!(g, one, other, from, to)
    for j in from:(to - 1)
        upper, lower = cell(g, one, j), cell(g, other, j)
        cell!(g, lower, one, j)
        cell!(g, upper, other, j)
    end
    return nothing
end

@inline function subtract_row!(g, row, other, factor, from, to)
    for j in from:(to - 1)
        cell!(g, cell(g, row, j) - factor * cell(g, other, j), row, j)
    end
    return nothing
end
