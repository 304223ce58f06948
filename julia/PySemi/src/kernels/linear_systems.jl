# Small dense matrices: systems solved by elimination with partial pivoting, factors, exponentials.

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
    return eliminate!(x, factors, n, k)
end

"Put the solution in the place of the right-hand sides `x` (n, k); `factors` held the matrix."
function eliminate!(x, factors, n, k)
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

"""
    MatrixExponential(buffers, out, a)

The exponential of each of [`Squares`](@ref) in memory that has an address.
"""
struct MatrixExponential{T} <: Function
    squares::Squares
    out::Ptr{T}
    a::Ptr{T}
    work::Vector{T}
end

function MatrixExponential(buffers, out::Window, a::Window)
    squares = Squares(out, a)
    start(w) = pointer(buffers[w.buffer])
    work = zeros(eltype(buffers[out.buffer]), EXPONENTIAL_WORK * squares.n^2)
    return MatrixExponential(squares, start(out), start(a), work)
end

function (k::MatrixExponential)()
    for i in 0:(k.squares.batch - 1)
        exponentiate!(k.out, k.a, k.work, k.squares, 0, i)
    end
    return nothing
end

"Matrices of work space that one exponential takes."
const EXPONENTIAL_WORK = 5

# Numerators of the Padé approximants [m/m] of exp, and the norms up to which those of degree 3,
# 5, 7 and, in double precision, 13 are exact to rounding (Higham 2005, "The scaling and squaring
# method for the matrix exponential revisited").
const PADE_3 = (120.0, 60.0, 12.0, 1.0)
const PADE_5 = (30240.0, 15120.0, 3360.0, 420.0, 30.0, 1.0)
const PADE_7 = (17297280.0, 8648640.0, 1995840.0, 277200.0, 25200.0, 1512.0, 56.0, 1.0)
const PADE_13 = (
    64764752532480000.0, 32382376266240000.0, 7771770303897600.0, 1187353796428800.0,
    129060195264000.0, 10559470521600.0, 670442572800.0, 33522128640.0, 1323241920.0,
    40840800.0, 960960.0, 16380.0, 182.0, 1.0,
)
pade_limits(::Type{Float32}) = (0.4258730f0, 1.880153f0, 3.925725f0)
pade_limits(::Type{Float64}) = (0.01495585217958292, 0.2539398330063230, 0.9504178996162932, 5.371920351148152)

"""
    exponentiate!(out, a, work, squares, part, i)

The exponential of the `i`th matrix by scaling and squaring, in the `part`th piece of `work`.
"""
function exponentiate!(out_memory, a_memory, work_memory, squares, part, i)
    n = squares.n
    out, a = Grid(out_memory, squares.out, i), Grid(a_memory, squares.a, i)
    A, A2, A4, A6, U = ntuple(Val(EXPONENTIAL_WORK)) do j
        Grid(work_memory, (EXPONENTIAL_WORK * part + j - 1) * n^2, n, 1)
    end
    norm = largest_row_sum(a, n)
    isfinite(norm) || return fill_with!(out, oftype(norm, NaN), n)
    limits = pade_limits(typeof(norm))
    squarings, scale = 0, one(norm)
    while norm * scale > last(limits)
        squarings += 1
        scale /= 2
    end
    for row in 0:(n - 1), j in 0:(n - 1)
        cell!(A, cell(a, row, j) * scale, row, j)
    end
    multiply!(A2, A, A, n)
    norm *= scale
    norm > limits[1] && multiply!(A4, A2, A2, n)
    norm > limits[2] && multiply!(A6, A4, A2, n)
    if norm <= limits[1]
        pade!(out, U, A, (A2,), PADE_3, n)
    elseif norm <= limits[2]
        pade!(out, U, A, (A2, A4), PADE_5, n)
    elseif norm <= limits[3]
        pade!(out, U, A, (A2, A4, A6), PADE_7, n)
    else
        pade_13!(out, U, A, (A2, A4, A6), n)
    end
    # exp ≈ (V - U)⁻¹ (V + U)
    for row in 0:(n - 1), j in 0:(n - 1)
        even, odd = cell(out, row, j), cell(U, row, j)
        cell!(A, even - odd, row, j)
        cell!(out, even + odd, row, j)
    end
    eliminate!(out, A, n, n)
    for _ in 1:squarings
        multiply!(U, out, out, n)
        for row in 0:(n - 1), j in 0:(n - 1)
            cell!(out, cell(U, row, j), row, j)
        end
    end
    return nothing
end

"`V`, the approximant's even powers of `A`, and `U`, the odd ones; `powers` are A², A⁴, ..."
function pade!(V, U, A, powers, b, n)
    combine!(V, powers, odd_ones(b), n)
    multiply!(U, A, V, n)
    combine!(V, powers, even_ones(b), n)
    return nothing
end

"As [`pade!`](@ref), of degree 13 with powers up to A⁶; `A` is lost."
function pade_13!(V, U, A, powers, n)
    odd, even = odd_ones(PADE_13), even_ones(PADE_13)
    A6 = last(powers)
    combine!(U, powers, upper(odd), n)
    multiply!(V, A6, U, n)
    combine!(V, powers, lower(odd), n; onto = true)
    multiply!(U, A, V, n)
    combine!(A, powers, upper(even), n)
    multiply!(V, A6, A, n)
    combine!(V, powers, lower(even), n; onto = true)
    return nothing
end

# Coefficients of 1, A², A⁴, A⁶, and those of A⁸, A¹⁰, A¹², divided by A⁶.
lower(b::NTuple{7}) = (b[1], b[2], b[3], b[4])
upper(b::NTuple{7}) = (0.0, b[5], b[6], b[7])
even_ones(b) = ntuple(j -> b[2j - 1], Val(length(b) ÷ 2))
odd_ones(b) = ntuple(j -> b[2j], Val(length(b) ÷ 2))

"`b₁ I + b₂ A² + b₃ A⁴ + ...`, added to what is there already if `onto`."
@inline function combine!(to, powers, b, n; onto = false)
    for row in 0:(n - 1), j in 0:(n - 1)
        value = oftype(cell(to, row, j), row == j ? first(b) : 0)
        onto && (value += cell(to, row, j))
        for (power, factor) in zip(powers, Base.tail(b))
            value = muladd(oftype(value, factor), cell(power, row, j), value)
        end
        cell!(to, value, row, j)
    end
    return nothing
end

"`C = A B` of matrices (n, n), row by row so that the inner loop runs over neighbours."
@inline function multiply!(C, A, B, n)
    fill_with!(C, zero(cell(C, 0, 0)), n)
    for row in 0:(n - 1), l in 0:(n - 1)
        factor = cell(A, row, l)
        @simd ivdep for j in 0:(n - 1)
            cell!(C, muladd(factor, cell(B, l, j), cell(C, row, j)), row, j)
        end
    end
    return nothing
end

function fill_with!(g, value, n)
    for row in 0:(n - 1), j in 0:(n - 1)
        cell!(g, value, row, j)
    end
    return nothing
end

function largest_row_sum(g, n)
    largest = zero(cell(g, 0, 0))
    for row in 0:(n - 1)
        total = zero(largest)
        for j in 0:(n - 1)
            total += abs(cell(g, row, j))
        end
        largest = Scalars.maximum(largest, total)
    end
    return largest
end
